"""Spans -> an ExportTraceServiceRequest in Protobuf, byte by byte.

Written for what it costs, as is `otlp_json`: the message classes of the exporters take six times
as long. The messages are those of opentelemetry-proto, `trace/v1/trace.proto`; the encoding is that
of https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, repeat
from struct import Struct
from typing import Any

from .span_tables import Table, in_tables

_TIME, _TIMES, _FLAGS, _DOUBLE = Struct("<BQ"), Struct("<BQBQ"), Struct("<I"), Struct("<d")
_ID = Struct(">Q")
# Tags: the number of a field, and how its value is written (0 a number, 1 eight bytes, 2 a length
# and so many bytes, 5 four bytes).
_VARINT, _BYTES = 0, 2
_FLOAT, _INT = b"\x21", b"\x18"  # tags of an AnyValue's
LATELY = 1024  # values of an attribute that are kept
_64_BITS = (1 << 64) - 1


def encode(spans: Iterable[Any]) -> bytes:
    """The request.

    Parameters
    ----------
    spans : iterable of opentelemetry.sdk.trace.ReadableSpan or of Table
        That have ended; grouped by resource and scope.
    """
    groups: dict[tuple[int, int], tuple[Any, list[bytes]]] = {}
    for one, some in in_tables(spans):
        key = id(one.resource), id(one.instrumentation_scope)
        told = _table(some) if isinstance(some, Table) else [_span(some)]
        groups.setdefault(key, (one, []))[1].extend(told)
    return b"".join([piece for one, some in groups.values() for piece in _group(one, some)])


def _group(one: Any, spans: list[bytes]) -> list[bytes]:
    """Spans with the resource and the scope of one of them, in pieces, since it is so long."""
    scope = _field(1, _scope(one.instrumentation_scope))
    length = len(scope) + sum(map(len, spans))
    head = _field(1, _attributes(1, one.resource.attributes)) + _head(2, length) + scope
    tail = _text(3, one.resource.schema_url)
    return [_head(1, len(head) - len(scope) + length + len(tail)), head, *spans, tail]


def _span(span: Any) -> bytes:
    context, above, status = span.context, span.parent, span.status
    parent, flags = 0, 0x100  # whether the parent is remote
    if above is not None:
        parent = above.span_id
        flags |= 0x200 * above.is_remote  # is known, and it is
    state = context.trace_state.to_header() if context.trace_state else ""
    # The API counts from 0, and 0 is "unspecified" in OTLP.
    trace, kind = _common(context.trace_id, state, parent, span.name, span.kind.value + 1)
    parts = [
        trace,
        context.span_id.to_bytes(8),
        kind,
        _TIMES.pack(0x39, span.start_time, 0x41, span.end_time),
        _attributes(9, span.attributes),
    ]
    if dropped := span.dropped_attributes:
        parts.append(_number(10, dropped))
    parts += [_field(11, _event(event)) for event in span.events]
    if dropped := span.dropped_events:
        parts.append(_number(12, dropped))
    parts.append(_end(status.status_code.value, status.description or "", flags))
    return _field(2, b"".join(parts))


def _table(table: Table) -> list[bytes]:
    """The spans of a table, each of which follows the head of its field."""
    common = table.common
    state = common.trace_state.to_header() if common.trace_state else ""
    remote = 0x300 if common.parent.is_remote else 0x100
    before, after = _common(common.trace_id, state, common.parent.span_id, common.name, 1)
    first, last, end = repeat(before), repeat(after), repeat(_end(0, "", remote))
    ids = map(_ID.pack, table.ids)
    times = map(_TIMES.pack, repeat(0x39), table.starts, repeat(0x41), table.ends)
    columns = map(map, _form(9, table.keys, table.kinds), table.columns)
    told = list(map(b"".join, zip(first, ids, last, times, *columns, end, strict=False)))
    return list(chain.from_iterable(zip(map(_head, repeat(2), map(len, told)), told, strict=True)))


@lru_cache(64)
def _common(trace: int, state: str, parent: int, name: str, kind: int) -> tuple[bytes, bytes]:
    """What the pairs of a run have in common, before the id of the span and after it."""
    above = _field(4, parent.to_bytes(8)) if parent else b""
    told = _text(3, state) + above + _text(5, name) + _number(6, kind)
    return _field(1, trace.to_bytes(16)) + b"\x12\x08", told


@lru_cache(64)
def _end(code: int, description: str, flags: int) -> bytes:
    status = _text(2, description) + (_number(3, code) if code else b"")
    return _field(15, status) + b"\x85\x01" + _FLAGS.pack(flags)


def _event(event: Any) -> bytes:
    return b"".join(
        (
            _TIME.pack(0x09, event.timestamp),
            _text(2, event.name),
            _attributes(3, event.attributes),
        )
    )


def _scope(scope: Any) -> bytes:
    return _text(1, scope.name) + _text(2, scope.version or "")


def _attributes(number: int, attributes: Mapping[str, Any] | None) -> bytes:
    if not attributes:
        return b""
    values = attributes.values()
    makers = _form(number, tuple(attributes), tuple(map(type, values)))
    return b"".join([make(value) for make, value in zip(makers, values, strict=True)])


@lru_cache(1024)
def _form(
    number: int, keys: tuple[str, ...], kinds: tuple[type, ...]
) -> list[Callable[[Any], bytes]]:
    """How the attributes of spans of one kind are made of their values."""
    return [_maker(number, key, kind) for key, kind in zip(keys, kinds, strict=True)]


@lru_cache(1024)
def _maker(number: int, key: str, kind: type) -> Callable[[Any], bytes]:
    """How an attribute is made of its value; for most values in no Python at all."""

    def whole(value: bytes) -> bytes:
        return _field(number, _text(1, key) + _field(2, value))

    def of_int(value: int) -> bytes:
        if 0x80 <= value < 0x4000:
            return heads[2] + bytes((value & 0x7F | 0x80, value >> 7))
        told = _varint(value & _64_BITS)
        return heads[len(told)] + told

    if kind is float:
        head = whole(_FLOAT + bytes(8))[:-8]
        return partial(Struct(f"<{len(head)}sd").pack, head)
    if kind is int:
        heads = [b"", *(whole(_INT + bytes(size))[:-size] for size in range(1, 11))]
        return _Made(of_int).__getitem__
    if kind is str:
        return _Made(lambda value: whole(_value(value))).__getitem__
    return lambda value: whole(_value(value))


class _Made(dict[Any, bytes]):
    """What was made of some values lately, such as names of tiles."""

    def __init__(self, make: Callable[[Any], bytes]) -> None:
        self._make = make

    def __missing__(self, value: Any) -> bytes:
        if len(self) >= LATELY:
            self.clear()
        made = self[value] = self._make(value)
        return made


def _value(value: Any) -> bytes:
    """An AnyValue."""
    if isinstance(value, str):
        # An empty text is a text all the same.
        return _field(1, value.encode())
    if isinstance(value, bool):
        return _number(2, value)
    if isinstance(value, int):
        return _number(3, value)
    if isinstance(value, float):
        return _FLOAT + _DOUBLE.pack(value)
    if isinstance(value, Sequence):
        return _field(5, b"".join(_field(1, _value(item)) for item in value))
    return _field(1, str(value).encode())


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode()) if text else b""


def _field(number: int, data: bytes) -> bytes:
    return _head(number, len(data)) + data


@lru_cache(1024)
def _head(number: int, length: int) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(length)


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value & _64_BITS)


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _SMALL[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    return bytes((value & 0x7F | 0x80,)) + _varint(value >> 7)


_SMALL = [bytes((value,)) for value in range(0x80)]
