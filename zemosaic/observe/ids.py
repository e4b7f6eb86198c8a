"""The ids of the spans of a run."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any


class Ids:
    """Ids of one trace: a random start, and consecutive span ids from there.

    The spans of a dead run can therefore be made again from its journal with the same ids, and
    delivered spans are identified by their numbers.

    Parameters
    ----------
    trace, first : int, optional
        Ids of an earlier run: 128 and 64 bits.
    """

    def __init__(self, trace: int = 0, first: int = 0) -> None:
        self.trace = trace or random.SystemRandom().randrange(1, 1 << 128)
        self.first = first or random.SystemRandom().randrange(1, 1 << 32) << 32
        self._counter = itertools.count(1)  # thread-safe in CPython

    def generate_trace_id(self) -> int:
        """Return the id of the trace."""
        return self.trace

    def generate_span_id(self) -> int:
        """Return the id of the next span."""
        return self.first + next(self._counter)

    def span_numbers(self, spans: Sequence[Any]) -> list[int]:
        """Return the numbers of spans, counted from 1 in the order of their start."""
        return [span.context.span_id - self.first for span in spans]

    def facts(
        self, endpoint: str = "", live: str = "off", parent: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return the record of a trace in the journal, from which it can be made again."""
        return {
            "id": self.trace,
            "first": self.first,
            "endpoint": endpoint,
            "live": live,
            "parent": dict(parent or {}),
        }
