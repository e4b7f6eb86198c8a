"""Errors that the user can correct."""

from __future__ import annotations


class UserError(ValueError):
    """Invalid input or usage, reported as one line that names the file or option and the remedy.

    Any other exception is a bug and keeps its traceback.
    """


class NoSolution(UserError):  # noqa: N818 - names an outcome rather than a fault
    """The tiles cannot be calibrated; the message gives the reason in one line."""


class TileError(UserError):
    """A tile cannot be used; the one-line message names the tile, the problem and the remedy."""


class ClusterLostError(UserError):
    """The scheduler of the workers does not answer any more; another run can resume this one."""

    def __str__(self) -> str:
        """Return the message with the remedy."""
        return f"{super().__str__()}; resume the run, there or with another --pool:"
