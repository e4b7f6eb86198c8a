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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import no_follow
from ..threads import start_thread
from .events import Event, Heartbeat, JobEnded, JobSubmitted, RunEnded, RunStarted, StageEnded
from .journal_lines import (
    DamagedLineError,
    decode_event,
    decode_line,
    decode_spans,
    encode_line,
)
from .observers import Observer
from .run_folder import RunFolder

_SYNCED = {RunStarted, StageEnded, Heartbeat}
CLOSE_TIMEOUT = 2.0  # seconds for a sync under way, and again for the last one


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


@dataclass
class Record:
    """A run as its journal records it.

    Parameters
    ----------
    about : dict
        As given to `Journal`.
    events : list
        In the order in which they happened.
    delivered : set of int
        Numbers of the spans accepted by a collector.
    damaged : int
        Number of lines left out because they are not as they were written.
    """

    about: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    delivered: set[int] = field(default_factory=set)
    damaged: int = 0

    @property
    def ended(self) -> RunEnded | None:
        """The end of the run; None if it is running or has died."""
        return next((e for e in reversed(self.events) if isinstance(e, RunEnded)), None)

    def unfinished(self) -> list[JobSubmitted]:
        """Return the submitted jobs without an end."""
        jobs: dict[tuple[str, int], JobSubmitted] = {}
        for event in self.events:
            if isinstance(event, JobSubmitted):
                jobs[event.stage, event.index] = event
            elif isinstance(event, JobEnded):
                jobs.pop((event.stage, event.index), None)
        return list(jobs.values())


def drop_result(entry: dict[str, Any]) -> None:
    """Remove the result from the entry of the end of a job, for readers who need none."""
    entry["result"] = None


def read(
    folder: Path, shorten: Callable[[dict[str, Any]], None] = lambda entry: None
) -> list[Record]:
    """Return all runs of a folder's journal, oldest first; none if it has no journal.

    Parameters
    ----------
    folder : pathlib.Path
        Run folder.
    shorten : callable
        Called with the entry of the end of each job, by the names of the fields of `JobEnded`;
        takes out what the caller does not need. Results have most of a journal's bytes.
    """
    records: list[Record] = []
    damaged = 0  # before the first run
    for entry in _read_lines(RunFolder(folder).journal):
        if entry is None:
            if records:
                records[-1].damaged += 1
            else:
                damaged += 1
            continue
        kind = entry.pop("kind", None)
        if kind == "about":
            records.append(Record(about=entry))
        elif kind == "delivered" and records:
            records[-1].delivered |= decode_spans(entry)
        elif isinstance(kind, str) and (event := decode_event(kind, entry, shorten)) is not None:
            # The first line of a run may be damaged.
            if not records or (isinstance(event, RunStarted) and records[-1].events):
                records.append(Record())
            records[-1].events.append(event)
    if records:
        records[0].damaged += damaged
    return records


def append(folder: Path, entry: Mapping[str, Any]) -> None:
    """Append a line to the journal of an ended run."""
    descriptor = _open(folder)
    try:
        os.write(descriptor, b"\n" + encode_line(entry))
    finally:
        os.close(descriptor)


def results(records: Iterable[Record]) -> dict[str, Any]:
    """Return the results of several runs by their keys."""
    return {
        event.key: event.result
        for record in records
        for event in record.events
        if isinstance(event, JobEnded) and event.key
    }


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


def _read_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the entry of each line, None for a damaged one; leave out torn ones.

    Whoever appends to the journal begins with a new line, which ends the line that the process
    before it may have left torn.
    """
    if not path.exists():
        return
    torn, checked = False, False
    with path.open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                entry, checked_line = decode_line(line, checked)
            except DamagedLineError:
                if torn:
                    yield None
                torn = True
                continue
            is_first = entry.get("kind") in ("about", "delivered")
            if torn and not is_first:
                yield None
            torn = False
            if entry.get("kind") == "about":
                checked = checked_line
            yield entry
        if torn and line.endswith(b"\n"):
            yield None
