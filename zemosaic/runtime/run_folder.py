"""The folder of a run: its files, and its lock, held by one run at a time."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import no_follow


@dataclass(frozen=True)
class RunFolder:
    """Paths of the files of a run.

    Parameters
    ----------
    path : pathlib.Path
        The run folder itself.
    """

    path: Path

    @property
    def lock(self) -> Path:
        """The file locked by the run in this folder."""
        return self.path / ".lock"

    @property
    def journal(self) -> Path:
        """All events of all runs, one line of JSON each."""
        return self.path / "journal.jsonl"

    @property
    def trace(self) -> Path:
        """The spans of the last run, as OTLP/JSON."""
        return self.path / "trace.jsonl"

    @property
    def inflight(self) -> Path:
        """The table of running jobs."""
        return self.path / "inflight.bin"

    @property
    def stacks(self) -> Path:
        """The folder of the stack dumps, one file per process."""
        return self.path / "stacks"

    def stack(self, pid: int, host: str = "") -> Path:
        """The stack dumps of one process, on this machine or on another host of a cluster."""
        name = re.sub(r"[^\w.-]", "_", f"{host}-{pid}") if host else pid
        return self.stacks / f"{name}.txt"

    @property
    def verdict(self) -> Path:
        """Why the watchdog ended the run; missing if it did not."""
        return self.stacks / "watchdog.txt"

    @property
    def previews(self) -> Path:
        """The folder of previews, which is removed when the run has finished."""
        return self.path / "previews"

    @property
    def thumbnails(self) -> Path:
        """The thumbnails of all tiles."""
        return self.path / "thumbs.npy"

    @property
    def mosaic(self) -> Path:
        """The mosaic made small, after and before the correction."""
        return self.path / "mosaic.npy"

    @property
    def unfinished_mosaic(self) -> Path:
        """The small mosaic while its blocks are made."""
        return self.path / "mosaic.unfinished.npy"

    @property
    def corrections(self) -> Path:
        """The table of corrections."""
        return self.path / "corrections.ecsv"

    @property
    def pairs(self) -> Path:
        """The table of pairs."""
        return self.path / "pairs.ecsv"

    @property
    def illumination(self) -> Path:
        """The illumination and the glow of each instrument."""
        return self.path / "illumination.fits"

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """The folder of the report's figures as PNG."""
        return self.path / "figures"


class FolderError(UserError):
    """A folder cannot be used; the message is one line with its name, the reason and a remedy."""


@contextmanager
def claim(folder: Path) -> Iterator[Path]:
    """Create the folder and lock it against other runs within the context.

    The operating system releases the lock when the process ends, even if it is killed. The lock
    file names the process.

    Raises
    ------
    FolderError
        The folder cannot be written, another run has locked it, or another user may have prepared
        it to lead the files of the run elsewhere.
    """
    lock = RunFolder(folder).lock
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_traps(folder)
        descriptor = no_follow(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise FolderError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    try:
        if not _try_lock(descriptor):
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            raise FolderError(
                f"{folder}: is in use by another run (process {holder}); "
                "wait for it, or choose another folder"
            )
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield folder
    finally:
        os.close(descriptor)


def _refuse_traps(folder: Path) -> None:
    status = folder.stat()
    is_foreign = hasattr(os, "geteuid") and status.st_uid != os.geteuid()
    if is_foreign and status.st_mode & stat.S_IWOTH:
        raise FolderError(
            f"{folder}: belongs to another user, and everybody can write to it; choose a folder of "
            "your own"
        )
    paths = RunFolder(folder)
    for name in (name for name, kind in vars(RunFolder).items() if isinstance(kind, property)):
        path: Path = getattr(paths, name)
        if path.is_symlink() or (sys.version_info >= (3, 12) and path.is_junction()):
            raise FolderError(
                f"{path}: is a symbolic link, which a run does not follow; remove it, or choose "
                "another folder"
            )


def holder(folder: Path) -> int | None:
    """Return the process of the run in a folder, 0 if unknown; None if no run uses it."""
    try:
        descriptor = os.open(RunFolder(folder).lock, os.O_RDWR)
    except OSError:
        return None
    try:
        if _try_lock(descriptor):
            return None
        process = os.read(descriptor, 20).decode(errors="replace").strip()
        return int(process) if process.isdecimal() else 0
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        # The locked byte is far past the end, so others can read the process.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a network drive without locks: an unlocked run is better than none
        return True
