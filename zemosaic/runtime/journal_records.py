"""The runs in the journal of a folder: as lists of events, or with their jobs in columns."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from .events import Event, JobEnded, JobSubmitted, RunEnded, RunStarted
from .job_columns import JobColumns
from .journal_lines import DamagedLineError, decode_event, decode_line, decode_spans
from .run_folder import RunFolder

RECENT = 50  # events among which the last sign of life of a run is
AnyRecord = TypeVar("AnyRecord", bound="Record")


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

    def add(self, kind: str, entry: dict[str, Any], place: int) -> bool:
        """Add the entry of an event; return False if it is not known."""
        event = decode_event(kind, entry)
        if event is not None:
            self.events.append(event)
        return event is not None


class Collector(Protocol):
    """Keeps the parts of the ends of jobs that a reader needs besides `JobColumns`."""

    def add(self, number: int, entry: dict[str, Any], place: int) -> None:
        """Receive the entry of an end, the number of its row and the place of its line."""


@dataclass
class RunColumns(Record):
    """A run with `events` that lack submissions and ends of jobs; columns hold the ends.

    Parameters
    ----------
    jobs : JobColumns
        The ends of its jobs.
    collector : Collector or None
        Receives their entries.
    place : int
        The place of its first line in the journal.
    recent : collections.deque of int
        Times of its last events.
    """

    jobs: JobColumns = field(kw_only=True)
    collector: Collector | None = None
    place: int = 0
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    _submitted: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    def unfinished(self) -> list[JobSubmitted]:
        """Return the submitted jobs without an end."""
        events = (decode_event("JobSubmitted", entry) for entry in self._submitted.values())
        return [event for event in events if isinstance(event, JobSubmitted)]

    def add(self, kind: str, entry: dict[str, Any], place: int) -> bool:
        """Add the entry of an event; return False if it is not known."""
        if kind == "JobEnded":
            if not self.jobs.add(entry, place):
                return False
            self._submitted.pop((entry["stage"], entry["index"]), None)
            self.recent.append(entry["ended_ns"])
            if self.collector is not None:
                self.collector.add(len(self.jobs) - 1, entry, place)
            return True
        if kind == "JobSubmitted":
            try:
                self._submitted[entry["stage"], entry["index"]] = entry
                self.recent.append(entry["time_ns"])
            except (KeyError, TypeError):
                return False
            return True
        is_known = super().add(kind, entry, place)
        if is_known and isinstance(time_ns := entry.get("time_ns"), int):
            self.recent.append(time_ns)
        return is_known


class SavedResults(Mapping[str, Any]):
    """The results of jobs by their keys, read from the journal when they are asked for.

    The results of a large run together take more memory than the run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, int] = {}
        self._file: BinaryIO | None = None

    def add(self, number: int, entry: dict[str, Any], place: int) -> None:
        """Note the place of a result, as a `Collector`."""
        if entry.get("key"):
            self._places[entry["key"]] = place

    def __getitem__(self, key: str) -> Any:
        place = self._places[key]
        if self._file is None:
            self._file = self._path.open("rb")
            weakref.finalize(self, self._file.close)
        self._file.seek(place)
        return decode_line(self._file.readline())[0]["result"]

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read(folder: Path) -> list[Record]:
    """Return all runs of a folder's journal, oldest first; none if it has no journal."""
    return _read_records(folder, lambda place: Record())


def read_columns(
    folder: Path, make_collector: Callable[[], Collector | None] = lambda: None
) -> list[RunColumns]:
    """Return all runs of a folder's journal in columns, oldest first; none if it has no journal.

    Parameters
    ----------
    folder : pathlib.Path
        Run folder.
    make_collector : callable
        Makes the collector of each run.
    """
    path = RunFolder(folder).journal
    return _read_records(
        folder,
        lambda place: RunColumns(jobs=JobColumns(path), collector=make_collector(), place=place),
    )


def _read_records(folder: Path, make: Callable[[int], AnyRecord]) -> list[AnyRecord]:
    records: list[AnyRecord] = []
    damaged = 0  # before the first run
    for entry, place in _read_lines(RunFolder(folder).journal):
        if entry is None:
            if records:
                records[-1].damaged += 1
            else:
                damaged += 1
            continue
        kind = entry.pop("kind", None)
        if kind == "about":
            records.append(make(place))
            records[-1].about = entry
        elif kind == "delivered" and records:
            records[-1].delivered |= decode_spans(entry)
        elif isinstance(kind, str):
            # The first line of a run may be damaged.
            is_new = not records or (kind == RunStarted.__name__ and bool(records[-1].events))
            record = make(place) if is_new else records[-1]
            if record.add(kind, entry, place) and is_new:
                records.append(record)
    if records:
        records[0].damaged += damaged
    return records


def read_events(folder: Path, place: int = 0) -> Iterator[Event]:
    """Yield the events in a folder's journal from the line at a place on."""
    for entry, _ in _read_lines(RunFolder(folder).journal, place):
        kind = entry and entry.pop("kind", None)
        if isinstance(kind, str) and (event := decode_event(kind, entry or {})) is not None:
            yield event


def results(folder: Path) -> SavedResults:
    """Return the results in a folder's journal by their keys."""
    saved = SavedResults(RunFolder(folder).journal)
    read_columns(folder, lambda: saved)
    return saved


def _read_lines(path: Path, place: int = 0) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """Yield entry and place of each line, None for a damaged one; leave out torn ones.

    Whoever appends to the journal begins with a new line, which ends the line that the process
    before it may have left torn.
    """
    if not path.exists():
        return
    torn, checked = False, False
    with path.open("rb") as lines:
        lines.seek(place)
        for line in lines:
            start, place = place, place + len(line)
            if line.isspace():
                continue
            try:
                entry, checked_line = decode_line(line, checked)
            except DamagedLineError:
                if torn:
                    yield None, start
                torn = True
                continue
            is_first = entry.get("kind") in ("about", "delivered")
            if torn and not is_first:
                yield None, start
            torn = False
            if entry.get("kind") == "about":
                checked = checked_line
            yield entry, start
        if torn and line.endswith(b"\n"):
            yield None, place
