"""The ends of the jobs of a run, as a journal has them, in a few bytes each.

A run of a hundred thousand tiles has a million events, which take kilobytes each as objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from struct import Struct, error
from typing import Any, NamedTuple

from .events import JobEnded, JobError
from .journal_lines import JOB_FIELDS, DamagedLineError, decode_event, decode_line


class JobRow(NamedTuple):
    """Numbers of the end of a job; `stage` and `outcome` are places in lists of names.

    `number` is the index of the job, `place` where its line begins in the journal; the other fields
    are as in `JobEnded`.
    """

    stage: int
    outcome: int
    number: int
    pid: int
    started_ns: int
    ended_ns: int
    place: int


#: Format of a packed row: the fields of `JobRow`.
ROW_FORMAT = "<bbqqqqq"
_ROW = Struct(ROW_FORMAT)
_NUMBERS = itemgetter("index", "pid", "started_ns", "ended_ns")


class JobColumns:
    """The ends of the jobs of one run.

    Parameters
    ----------
    path : pathlib.Path
        The journal.

    Attributes
    ----------
    stages, outcomes : list of str
        Names to which the numbers of the rows refer.
    packed : bytearray
        The rows.
    errors : dict
        The errors of failed jobs, by the number of the row.
    done, saved : Mapping
        By stage, the largest count of ended jobs, and the number of reusable results.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.stages: list[str] = []
        self.outcomes: list[str] = []
        self.packed = bytearray()
        self.errors: dict[int, JobError] = {}
        self.done: Counter[str] = Counter()
        self.saved: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.packed) // _ROW.size

    def __iter__(self) -> Iterator[JobRow]:
        return map(JobRow._make, _ROW.iter_unpack(self.packed))

    def add(self, entry: Mapping[str, Any], place: int) -> bool:
        """Add the end of a job; return False if its fields do not fit `JobEnded`."""
        if not entry.keys() <= JOB_FIELDS:
            return False
        try:
            names = entry["stage"], entry["outcome"]
            codes = _code(self.stages, names[0]), _code(self.outcomes, names[1])
            row = _ROW.pack(*codes, *_NUMBERS(entry), place)
            failure = entry.get("error") and JobError(**entry["error"])
            done = max(self.done[names[0]], entry["done"])
        except (KeyError, TypeError, error):
            return False
        if failure:
            self.errors[len(self)] = failure
        self.packed += row
        self.done[names[0]] = done
        self.saved[names[0]] += bool(entry.get("key"))
        return True

    def read(self, number: int) -> JobEnded:
        """Return the end of a job, read from the journal again.

        Raises
        ------
        OSError
            The journal is gone.
        """
        row = JobRow(*_ROW.unpack_from(self.packed, number * _ROW.size))
        with self._path.open("rb") as journal:
            journal.seek(row.place)
            line = journal.readline()
        try:
            entry, _ = decode_line(line)
            event = decode_event(entry.pop("kind"), entry)
        except (DamagedLineError, KeyError):
            event = None
        if not isinstance(event, JobEnded):
            raise OSError(f"{self._path}: has changed while it was read")
        return event


def _code(names: list[str], name: str) -> int:
    """Return the place of a name in a list, to which it is added if it is new."""
    if name not in names:
        names.append(name)
    return names.index(name)
