"""Spans that have ended well, by the thousand, in the form that costs least to make and to send.

They are tables: what so many spans have in common is told once, and the rest lies in columns, since
a loop in Python over every span and attribute costs more than all else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, groupby
from typing import Any, NamedTuple


class Common(NamedTuple):
    """What the spans of one name under one parent have in common; `parent` is its context."""

    name: str
    trace_id: int
    trace_flags: Any
    trace_state: Any
    parent: Any
    resource: Any
    instrumentation_scope: Any


@dataclass(frozen=True, eq=False, slots=True)
class Table:
    """Spans of jobs that ended well: no events, no links, status unset.

    They differ in nothing but their ids, times (as in OTLP) and the values of their attributes.

    Parameters
    ----------
    common : Common
        The same for all.
    keys, kinds : tuple
        Names of the attributes, and the types of their values.
    ids, starts, ends : sequence of int
        One for each span.
    columns : sequence of sequences
        For each attribute its values, one for each span.
    """

    common: Common
    keys: tuple[str, ...]
    kinds: tuple[type, ...]
    ids: Sequence[int]
    starts: Sequence[int]
    ends: Sequence[int]
    columns: Sequence[Sequence[Any]]

    def rows(self) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
        """Id, start, end and attributes of each span."""
        values = zip(*self.columns, strict=True) if self.columns else ((),) * len(self.ids)
        for span, start, end, value in zip(self.ids, self.starts, self.ends, values, strict=True):
            yield span, start, end, dict(zip(self.keys, value, strict=True))

    def without(self, ids: Collection[int]) -> Table:
        """Those that are not among some."""
        left = [span not in ids for span in self.ids]
        ids, starts, ends, *columns = (
            list(compress(z, left)) for z in (self.ids, self.starts, self.ends, *self.columns)
        )
        return Table(self.common, self.keys, self.kinds, ids, starts, ends, columns)


def ids(spans: Any) -> Sequence[int]:
    """Those of a table, or that of a span of the SDK."""
    return spans.ids if isinstance(spans, Table) else (spans.context.span_id,)


def in_tables(spans: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Spans and tables in their order, tables that can be as one; with what tells the resource."""
    for shape, some in groupby(spans, _shape):
        if shape is None:
            yield from ((span, span) for span in some)
        else:
            table = _joined(list(some))
            yield table.common, table


def _shape(spans: Any) -> tuple[Any, ...] | None:
    return (id(spans.common), spans.keys, spans.kinds) if isinstance(spans, Table) else None


def _joined(tables: list[Table]) -> Table:
    first = tables[0]
    if len(tables) == 1:
        return first
    ids, starts, ends, *columns = (
        [*chain.from_iterable(z)]
        for z in zip(*((t.ids, t.starts, t.ends, *t.columns) for t in tables), strict=True)
    )
    return Table(first.common, first.keys, first.kinds, ids, starts, ends, columns)
