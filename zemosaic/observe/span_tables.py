"""Tables of similar ended spans, by the thousand: cheap to make and to encode.

A table states once what its spans share and keeps the rest in columns. A loop in Python over every
span and attribute would cost more than everything else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, groupby
from typing import Any, NamedTuple


class SharedFields(NamedTuple):
    """Fields that the spans of one name under one parent share; `parent` is a span context."""

    name: str
    trace_id: int
    trace_flags: Any
    trace_state: Any
    parent: Any
    resource: Any
    instrumentation_scope: Any

    @classmethod
    def under(cls, parent: Any, name: str) -> SharedFields:
        """Return the fields of spans with a parent, which is a span of the SDK."""
        context = parent.get_span_context()
        return cls(
            name, context.trace_id, context.trace_flags, context.trace_state, context,
            parent.resource, parent.instrumentation_scope,
        )  # fmt: skip


@dataclass(frozen=True, eq=False, slots=True)
class SpanTable:
    """Spans without events, links or a status; they differ in ids, times and attribute values.

    Parameters
    ----------
    shared : SharedFields
        Fields of all spans.
    keys, types : tuple
        Names of the attributes, and the types of their values.
    ids, starts, ends : sequence of int
        One value per span; times in nanoseconds since the epoch.
    columns : sequence of sequences
        For each attribute its values, one per span.
    """

    shared: SharedFields
    keys: tuple[str, ...]
    types: tuple[type, ...]
    ids: Sequence[int]
    starts: Sequence[int]
    ends: Sequence[int]
    columns: Sequence[Sequence[Any]]

    def rows(self) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
        """Yield the id, start, end and attributes of each span."""
        rows = zip(*self.columns, strict=True) if self.columns else ((),) * len(self.ids)
        for span, start, end, values in zip(self.ids, self.starts, self.ends, rows, strict=True):
            yield span, start, end, dict(zip(self.keys, values, strict=True))

    def without(self, ids: Collection[int]) -> SpanTable:
        """Return the table without the spans of these ids."""
        kept = [span not in ids for span in self.ids]
        fields = (self.ids, self.starts, self.ends, *self.columns)
        kept_ids, starts, ends, *columns = (list(compress(field, kept)) for field in fields)
        return SpanTable(self.shared, self.keys, self.types, kept_ids, starts, ends, columns)


def span_ids(item: Any) -> Sequence[int]:
    """Return the ids of the spans of a table, or that of a span of the SDK."""
    return item.ids if isinstance(item, SpanTable) else (item.context.span_id,)


def merge_tables(items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Join successive tables of the same shape.

    Yields
    ------
    owner : object
        Has the resource and the instrumentation scope of the item.
    item : span of the SDK or SpanTable
        In the order of the input.
    """
    for shape, group in groupby(items, _shape):
        if shape is None:
            yield from ((span, span) for span in group)
        else:
            table = _joined(list(group))
            yield table.shared, table


def _shape(item: Any) -> tuple[Any, ...] | None:
    return (id(item.shared), item.keys, item.types) if isinstance(item, SpanTable) else None


def _joined(tables: list[SpanTable]) -> SpanTable:
    first = tables[0]
    if len(tables) == 1:
        return first
    fields = zip(*((t.ids, t.starts, t.ends, *t.columns) for t in tables), strict=True)
    ids, starts, ends, *columns = ([*chain.from_iterable(field)] for field in fields)
    return SpanTable(first.shared, first.keys, first.types, ids, starts, ends, columns)
