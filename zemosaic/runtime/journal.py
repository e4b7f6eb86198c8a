"""The append-only record of a run: what resume takes up and the autopsy reads.

One line of JSON for each event, given to the kernel as it happens (those of one moment with one
write), so that a killed run loses nothing; to the disk it is forced at heartbeats, ends of stages
and at the end, by a thread, since a disk may take seconds for it and the loop has to go on. A line
that was torn is skipped. A run that goes on from another adds to the same file.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from .events import (
    Event,
    Heartbeat,
    JobEnded,
    JobError,
    JobSubmitted,
    Note,
    Observer,
    RunEnded,
    RunStarted,
    SlowJob,
    StageEnded,
    StageStarted,
)
from .run_folder import RunFolder

_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (RunStarted, StageStarted, StageEnded, JobSubmitted, JobEnded, Heartbeat, SlowJob,
                 Note, RunEnded)
}  # fmt: skip
# How lines begin that `json` wrote, and must read; earlier versions wrote all of them so.
_BY_JSON = (b" ", b'{"kind":"about"')
# Fields of events under their names in journals of version 0.2.1 and earlier.
_RENAMED = {"stages": "step_times", "part": "step", "running_parts": "running_steps"}
_FORCED = {RunStarted, StageEnded, Heartbeat}
CLOSING = 2.0  # seconds that a disk may take for what it was given last, and for the rest


class Journal(Observer):
    """Writes the record of a run.

    Parameters
    ----------
    folder : pathlib.Path
        The run folder.
    about : Mapping
        What is to be known of the run besides its events, in plain JSON.
    on_failure : callable
        Told why, once, when the journal can be written no more; the run goes on without.

    Raises
    ------
    OSError
        It cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        on_failure: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.failed = ""
        self._on_failure = on_failure
        self._forcing: threading.Thread | None = None
        self._path = RunFolder(folder).journal
        self._handle = _opened(folder)
        # After a torn line of a run that died, or of a disk that was full.
        self._whole = False
        self.write({"kind": "about", **about})

    def write(self, *entries: Mapping[str, Any]) -> None:
        """Add lines, together; from any thread."""
        line = b"".join(map(_line, entries))
        if not self._whole:
            line = b"\n" + line
        try:
            self._whole = os.write(self._handle, line) == len(line)
        except OSError:
            self._whole = False
            raise
        if not self._whole:
            raise OSError(28, os.strerror(28), self._path.name)

    def force(self) -> None:
        """Have the disk hold before long what the kernel holds, unless it is still at the last."""
        if self._forcing is None or not self._forcing.is_alive():
            self._forcing = self._force(self._handle)

    def _force(self, handle: int) -> threading.Thread:
        def work() -> None:
            try:
                os.fsync(handle)
            except OSError as error:
                self._fail(error)

        thread = threading.Thread(target=work, name="zemosaic-journal", daemon=True)
        thread.start()
        return thread

    def close(self, timeout: float = CLOSING) -> None:
        """Write no more; a disk that does not take what is left within the time keeps the file."""
        handle, self._handle = self._handle, -1  # whose number will soon be another file's
        if self._forcing is not None:
            self._forcing.join(timeout)
        if self._forcing is None or not self._forcing.is_alive():
            self._forcing = self._force(handle)
            self._forcing.join(timeout)
        if not self._forcing.is_alive():
            os.close(handle)

    def handle_batch(self, events: Sequence[Event]) -> None:
        """Add a line for each."""
        if self.failed:
            return
        try:
            self.write(*[{"kind": type(event).__name__, **vars(event)} for event in events])
            if not _FORCED.isdisjoint(map(type, events)):
                self.force()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self.failed:
            self.failed = error.strerror or str(error)
            self._on_failure(self.failed)


@dataclass
class Record:
    """A run as its journal tells it.

    Parameters
    ----------
    about : dict
        As given to `Journal`.
    events : list
        In the order in which they happened.
    delivered : set of int
        Numbers of the spans that a collector has.
    """

    about: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    delivered: set[int] = field(default_factory=set)

    @property
    def ended(self) -> RunEnded | None:
        """How it ended; None where it goes on or died."""
        return next((e for e in reversed(self.events) if isinstance(e, RunEnded)), None)

    def unfinished(self) -> list[JobSubmitted]:
        """Jobs that were given to the pool and never ended."""
        open_jobs: dict[tuple[str, int], JobSubmitted] = {}
        for event in self.events:
            if isinstance(event, JobSubmitted):
                open_jobs[event.stage, event.index] = event
            elif isinstance(event, JobEnded):
                open_jobs.pop((event.stage, event.index), None)
        return list(open_jobs.values())


def read(folder: Path) -> list[Record]:
    """All runs that the journal of a folder tells of, the last one last; none without a journal."""
    records: list[Record] = []
    for entry in _lines(RunFolder(folder).journal):
        kind = entry.pop("kind", None)
        if kind == "about":
            records.append(Record(about=entry))
        elif not records:
            continue
        elif kind == "delivered":
            for first, last in entry.get("spans", ()):
                records[-1].delivered.update(range(first, last + 1))
        elif (event := _event(kind, entry)) is not None:
            records[-1].events.append(event)
    return records


def append(folder: Path, entry: Mapping[str, Any]) -> None:
    """Add a line to the journal of a run that is over."""
    handle = _opened(folder)
    try:
        os.write(handle, b"\n" + _line(entry))
    finally:
        os.close(handle)


def results(records: Iterable[Record]) -> dict[str, Any]:
    """Results that any run left, by their keys."""
    return {
        event.key: event.result
        for record in records
        for event in record.events
        if isinstance(event, JobEnded) and event.key
    }


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as pairs of the first and the last of those without a gap."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _opened(folder: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
    return os.open(RunFolder(folder).journal, flags, 0o644)


def _line(entry: Mapping[str, Any]) -> bytes:
    """A line by orjson, in a fifth of the time of `json`; by that, what orjson has no form for.

    That is half a character, as Python keeps a byte of a file name that is no Unicode; an integer
    beyond 64 bits, as the trace's id is; and a number that is not finite.
    """
    try:
        line = orjson.dumps(entry, _plain, orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        return _by_json(entry)
    # For a number that is not finite orjson writes null; nearly every event has no error.
    nulls = line.count(b"null")
    if nulls > (entry.get("error", "") is None):
        unknown = [None for value in entry.values() if value is None]
        if nulls > len(unknown):
            return _by_json(entry)
    return line


def _by_json(entry: Mapping[str, Any]) -> bytes:
    return b" " + _encode(entry).encode() + b"\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                entry = _read(line)
            except ValueError:  # empty, or torn when a run died
                continue
            if isinstance(entry, dict):
                yield entry


def _read(line: bytes) -> Any:
    """What a line says; orjson would make a float of an integer beyond 64 bits."""
    if not line.startswith(_BY_JSON):
        with contextlib.suppress(ValueError):  # of an earlier version, or torn
            return orjson.loads(line)
    return json.loads(line)


def _event(kind: str | None, entry: dict[str, Any]) -> Event | None:
    """The event of a line; None where it is none, or one of another version."""
    try:
        if entry.get("error") is not None:
            entry["error"] = JobError(**entry["error"])
        fields = {_RENAMED.get(name, name): value for name, value in entry.items()}
        event: Event = _KINDS[kind or ""](**fields)
    except (KeyError, TypeError):
        return None
    return event


def _plain(value: Any) -> Any:
    """What JSON has no form for: an error, or a number or array of numpy."""
    if isinstance(value, JobError):
        return vars(value)
    return value.tolist()


_encode = json.JSONEncoder(separators=(",", ":"), default=_plain).encode
