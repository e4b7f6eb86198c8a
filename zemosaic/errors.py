"""What a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input or usage; the message is one line: which file or option, what is wrong, what to do.

    Everything else that is raised is a fault of the program, and keeps its traceback.
    """


class NoSolution(UserError):  # noqa: N818 - it names the result, not a fault
    """There is nothing to solve; the message says why in one line."""
