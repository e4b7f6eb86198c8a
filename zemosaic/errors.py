"""What a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input or usage; the message is one line: which file or option, what is wrong, what to do.

    Everything else that is raised is a fault of the program, and keeps its traceback.
    """
