"""Spans that have ended well, by the thousand, in the form that costs least to make and to send.

Encoders take them as tables: what so many spans have in common is told once, and the rest goes
column by column, since a loop in Python over every attribute costs more than all else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby
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


class Ended(NamedTuple):
    """A span of a job that ended well: no events, no links, status unset; times as in OTLP."""

    common: Common
    span_id: int
    start_time: int
    end_time: int
    attributes: dict[str, Any]


class Table(NamedTuple):
    """Spans that differ in nothing but their ids, times and the values of their attributes.

    Parameters
    ----------
    common : Common
        The same for all.
    keys, kinds : tuple
        Names of the attributes, and the types of their values.
    spans : list of Ended
        One or more.
    values : list
        Those of the first span, of the second, and so on.
    """

    common: Common
    keys: tuple[str, ...]
    kinds: tuple[type, ...]
    spans: list[Ended]
    values: list[Any]


def in_tables(spans: Iterable[Any]) -> Iterator[tuple[Any, Table | Any]]:
    """Spans, in their order, those that can as tables; with each what tells of its resource."""
    for ended, some in groupby(spans, lambda span: isinstance(span, Ended)):
        if ended:
            yield from ((table.common, table) for table in _tables(some))
        else:
            yield from ((span, span) for span in some)


def _tables(spans: Iterable[Ended]) -> Iterator[Table]:
    for (_, *keys), some in groupby(spans, _shape):
        alike = list(some)
        values = _values(alike)
        kinds = tuple(map(type, values[: len(keys)]))
        if tuple(map(type, values)) == kinds * len(alike):
            yield Table(alike[0].common, tuple(keys), kinds, alike, values)
            continue
        for kinds, few in groupby(alike, _kinds):
            alike = list(few)
            yield Table(alike[0].common, tuple(keys), kinds, alike, _values(alike))


def _shape(span: Ended) -> tuple[Any, ...]:
    return id(span.common), *span.attributes


def _kinds(span: Ended) -> tuple[type, ...]:
    return tuple(map(type, span.attributes.values()))


def _values(spans: list[Ended]) -> list[Any]:
    return list(chain.from_iterable([span.attributes.values() for span in spans]))
