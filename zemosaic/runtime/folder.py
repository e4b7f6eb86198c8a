"""A run folder belongs to one run at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zemosaic.errors import UserError

LOCK = ".lock"


class FolderError(UserError):
    """A folder cannot be used; the message is one line: which, why, what to do."""


@contextmanager
def claim(folder: Path) -> Iterator[Path]:
    """Make the folder, and hold it against other runs until the end.

    The lock is the operating system's, so it ends with the process however that dies. The file
    names the process that holds it.

    Raises
    ------
    FolderError
        It cannot be written, or another run holds it.
    """
    lock = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise FolderError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    try:
        if not _locked(handle):
            holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            raise FolderError(
                f"{folder}: is in use by another run (process {holder}); "
                "wait for it, or choose another folder"
            )
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield folder
    finally:
        os.close(handle)


def holder(folder: Path) -> int | None:
    """The process that holds a folder (0: not known which); None where none does."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        if _locked(handle):
            return None
        told = os.read(handle, 20).decode(errors="replace").strip()
        return int(told) if told.isdecimal() else 0
    finally:
        os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _locked(handle: int) -> bool:
        # Locks a byte far past the end, so that others can still read who holds it.
        os.lseek(handle, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _locked(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a network drive without locks: better a run unguarded than none
        return True
