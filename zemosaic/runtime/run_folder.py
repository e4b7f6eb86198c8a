"""The folder of a run: its files, and the lock that one run at a time holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError


@dataclass(frozen=True)
class RunFolder:
    """Paths of the files of a run.

    Parameters
    ----------
    path : pathlib.Path
        The folder.
    """

    path: Path

    @property
    def lock(self) -> Path:
        """The file whose lock belongs to the run that uses the folder."""
        return self.path / ".lock"

    @property
    def journal(self) -> Path:
        """Every event of every run, one line of JSON each."""
        return self.path / "journal.jsonl"

    @property
    def trace(self) -> Path:
        """The spans of the last run, as OTLP/JSON."""
        return self.path / "trace.jsonl"

    @property
    def inflight(self) -> Path:
        """The table of jobs that are running."""
        return self.path / "inflight.bin"

    @property
    def stacks(self) -> Path:
        """The folder of the stack dumps, one file per process."""
        return self.path / "stacks"

    def stack(self, pid: int) -> Path:
        """The stack dumps of one process."""
        return self.stacks / f"{pid}.txt"

    @property
    def previews(self) -> Path:
        """The folder of previews, which is removed when the run has finished."""
        return self.path / "previews"

    @property
    def thumbnails(self) -> Path:
        """The thumbnails of all tiles."""
        return self.path / "thumbs.npy"

    @property
    def corrections(self) -> Path:
        """The table of corrections."""
        return self.path / "corrections.ecsv"

    @property
    def pairs(self) -> Path:
        """The table of pairs."""
        return self.path / "pairs.ecsv"

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """The folder of the report's figures as PNG."""
        return self.path / "figures"


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
    lock = RunFolder(folder).lock
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
        handle = os.open(RunFolder(folder).lock, os.O_RDWR)
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
