"""The append-only record of a run, which ``--resume`` and ``zemosaic autopsy`` read.

One line of JSON per event, passed to the kernel as it happens, so a killed run loses nothing;
simultaneous events share a write. A thread forces the file to the disk at heartbeats, at the ends
of stages and at the end of the run, because the scheduler must not wait for a slow disk. A resumed
run appends to the same file. Each line has a checksum. Readers skip torn lines, damaged lines,
which they count, and unknown events, so the file needs no version.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import no_follow
from ..threads import start_thread
from .events import Event, Heartbeat, RunStarted, StageEnded
from .journal_lines import encode_line
from .journal_records import (
    Collector,
    Record,
    RunColumns,
    SavedResults,
    read,
    read_columns,
    read_events,
    results,
)
from .observers import Observer
from .run_folder import RunFolder

_SYNCED = {RunStarted, StageEnded, Heartbeat}
CLOSE_TIMEOUT = 2.0  # seconds for a sync under way, and again for the last one

__all__ = [
    "Collector", "Journal", "Record", "RunColumns", "SavedResults", "append", "ranges", "read",
    "read_columns", "read_events", "results",
]  # fmt: skip


class Journal(Observer):
    """Writes the record of a run.

    Parameters
    ----------
    folder : pathlib.Path
        Run folder.
    about : Mapping
        Facts about the run besides its events, as JSON can hold them.
    on_failure : callable
        Called once with the reason when the journal can no longer be written; the run continues.

    Raises
    ------
    OSError
        The journal cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        on_failure: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.failed = ""
        self._on_failure = on_failure
        self._sync_thread: threading.Thread | None = None
        self._path = RunFolder(folder).journal
        self._descriptor = _open(folder)
        self._ends_with_newline = False  # the last line of a dead run may be torn
        self.write({"kind": "about", **about})

    def write(self, *entries: Mapping[str, Any]) -> None:
        """Append lines with one write; safe in any thread.

        Raises
        ------
        OSError
            Not all of them could be written.
        """
        lines = b"".join(map(encode_line, entries))
        if not self._ends_with_newline:
            lines = b"\n" + lines
        try:
            self._ends_with_newline = os.write(self._descriptor, lines) == len(lines)
        except OSError:
            self._ends_with_newline = False
            raise
        if not self._ends_with_newline:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path.name)

    def sync(self) -> None:
        """Start to force the file to the disk, unless the last sync is still under way."""
        if self._sync_thread is None or not self._sync_thread.is_alive():
            self._sync_thread = self._start_sync(self._descriptor)

    def _start_sync(self, descriptor: int) -> threading.Thread | None:
        """Force the file to the disk by a thread; by this one, and return None, without threads."""

        def sync() -> None:
            try:
                os.fsync(descriptor)
            except OSError as error:
                self._report_failure(error)

        thread = start_thread(
            sync, "zemosaic-journal", "the run itself waits until the disk has the journal"
        )
        if thread is None:
            sync()
        return thread

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Sync and close the file; leave it open if the disk takes longer than `timeout` seconds.

        Later writes raise OSError.
        """
        # Another file may soon have this number.
        descriptor, self._descriptor = self._descriptor, -1
        if self._sync_thread is not None:
            self._sync_thread.join(timeout)
        if self._sync_thread is None or not self._sync_thread.is_alive():
            self._sync_thread = self._start_sync(descriptor)
            if self._sync_thread is not None:
                self._sync_thread.join(timeout)
        if self._sync_thread is None or not self._sync_thread.is_alive():
            os.close(descriptor)

    def handle_batch(self, events: Sequence[Event]) -> None:
        """Append a line for each event, unless the journal has failed before."""
        if self.failed:
            return
        try:
            self.write(*[{"kind": type(event).__name__, **vars(event)} for event in events])
            if not _SYNCED.isdisjoint(map(type, events)):
                self.sync()
        except OSError as error:
            self._report_failure(error)

    def _report_failure(self, error: OSError) -> None:
        if not self.failed:
            self.failed = error.strerror or str(error)
            self._on_failure(self.failed)


def append(folder: Path, entry: Mapping[str, Any]) -> None:
    """Append a line to the journal of an ended run."""
    descriptor = _open(folder)
    try:
        os.write(descriptor, b"\n" + encode_line(entry))
    finally:
        os.close(descriptor)


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return numbers as (first, last) of each sequence without a gap."""
    pairs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if pairs and number == pairs[-1][1] + 1:
            pairs[-1] = (pairs[-1][0], number)
        else:
            pairs.append((number, number))
    return pairs


def _open(folder: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return no_follow(RunFolder(folder).journal, flags, 0o644)
