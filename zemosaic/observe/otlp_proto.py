"""Encode spans as an ExportTraceServiceRequest in Protobuf, byte by byte.

Written for speed, like `otlp_json`: the message classes of the exporters take six times as long.
The messages are defined in `trace/v1/trace.proto` of opentelemetry-proto, the encoding at
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, repeat
from struct import Struct
from typing import Any

from .span_tables import SpanTable, merge_tables

_TIME, _TIMES, _FLAGS, _DOUBLE = Struct("<BQ"), Struct("<BQBQ"), Struct("<I"), Struct("<d")
_ID = Struct(">Q")
# A tag holds the number of a field and its wire type: 0 an integer, 1 eight bytes, 2 a length and
# as many bytes, 5 four bytes.
_VARINT, _BYTES = 0, 2
_FLOAT, _INT = b"\x21", b"\x18"  # tags of an AnyValue's double and integer
CACHED_VALUES = 1024  # values of an attribute whose encoding is kept
_64_BITS = (1 << 64) - 1


def encode(items: Iterable[Any]) -> bytes:
    """Return the request.

    Parameters
    ----------
    items : iterable of opentelemetry.sdk.trace.ReadableSpan or of SpanTable
        Ended spans. They are grouped by resource and scope.

    Raises
    ------
    ValueError
        A text has a lone surrogate: UTF-8 cannot represent it.
    """
    groups: dict[tuple[int, int], tuple[Any, list[bytes]]] = {}
    for owner, item in merge_tables(items):
        key = id(owner.resource), id(owner.instrumentation_scope)
        encoded = _table(item) if isinstance(item, SpanTable) else [_span(item)]
        groups.setdefault(key, (owner, []))[1].extend(encoded)
    return b"".join([piece for group in groups.values() for piece in _group(*group)])


def _group(owner: Any, spans: list[bytes]) -> list[bytes]:
    """Return spans with their resource and scope, in pieces because the whole is long."""
    scope = _field(1, _scope(owner.instrumentation_scope))
    length = len(scope) + sum(map(len, spans))
    start = _field(1, _attributes(1, owner.resource.attributes)) + _field_start(2, length) + scope
    end = _text(3, owner.resource.schema_url)
    total = len(start) - len(scope) + length + len(end)
    return [_field_start(1, total), start, *spans, end]


def _span(span: Any) -> bytes:
    context, status = span.context, span.status
    parent_id, flags = 0, 0x100  # it is known whether the parent is remote
    if span.parent is not None:
        parent_id = span.parent.span_id
        flags |= 0x200 * span.parent.is_remote
    state = context.trace_state.to_header() if context.trace_state else ""
    # The API counts kinds from 0, OTLP from 1.
    start, name = _shared(context.trace_id, state, parent_id, span.name, span.kind.value + 1)
    parts = [
        start,
        context.span_id.to_bytes(8),
        name,
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


def _table(table: SpanTable) -> list[bytes]:
    """Return the spans of a table, each preceded by the start of its field."""
    shared, parent = table.shared, table.shared.parent
    state = shared.trace_state.to_header() if shared.trace_state else ""
    flags = 0x300 if parent.is_remote else 0x100
    start, name = _shared(shared.trace_id, state, parent.span_id, shared.name, 1)
    ids = map(_ID.pack, table.ids)
    times = map(_TIMES.pack, repeat(0x39), table.starts, repeat(0x41), table.ends)
    columns = map(map, _encoders(9, table.keys, table.types), table.columns)
    parts = (repeat(start), ids, repeat(name), times, *columns, repeat(_end(0, "", flags)))
    spans = list(map(b"".join, zip(*parts, strict=False)))
    starts = map(_field_start, repeat(2), map(len, spans))
    return list(chain.from_iterable(zip(starts, spans, strict=True)))


@lru_cache(64)
def _shared(trace_id: int, state: str, parent_id: int, name: str, kind: int) -> tuple[bytes, bytes]:
    """Return the shared fields of similar spans, before the id of a span and after it."""
    parent = _field(4, parent_id.to_bytes(8)) if parent_id else b""
    after = _text(3, state) + parent + _text(5, name) + _number(6, kind)
    return _field(1, trace_id.to_bytes(16)) + b"\x12\x08", after


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
    encoders = _encoders(number, tuple(attributes), tuple(map(type, values)))
    return b"".join([encoder(value) for encoder, value in zip(encoders, values, strict=True)])


@lru_cache(1024)
def _encoders(
    number: int, keys: tuple[str, ...], types: tuple[type, ...]
) -> list[Callable[[Any], bytes]]:
    """Return an encoder for each attribute."""
    return [_encoder(number, key, kind) for key, kind in zip(keys, types, strict=True)]


@lru_cache(1024)
def _encoder(number: int, key: str, kind: type) -> Callable[[Any], bytes]:
    """Return an encoder of an attribute; for most values it runs no Python code."""

    def attribute(value: bytes) -> bytes:
        return _field(number, _text(1, key) + _field(2, value))

    def integer(value: int) -> bytes:
        if 0x80 <= value < 0x4000:
            return starts[2] + bytes((value & 0x7F | 0x80, value >> 7))
        encoded = _varint(value & _64_BITS)
        return starts[len(encoded)] + encoded

    if kind is float:
        start = attribute(_FLOAT + bytes(8))[:-8]
        return partial(Struct(f"<{len(start)}sd").pack, start)
    if kind is int:
        starts = [b"", *(attribute(_INT + bytes(size))[:-size] for size in range(1, 11))]
        return _EncodingCache(integer).__getitem__
    if kind is str:
        return _EncodingCache(lambda value: attribute(_any_value(value))).__getitem__
    return lambda value: attribute(_any_value(value))


class _EncodingCache(dict[Any, bytes]):
    """Encodings of recent values, such as the names of tiles."""

    def __init__(self, encode_value: Callable[[Any], bytes]) -> None:
        self._encode_value = encode_value

    def __missing__(self, value: Any) -> bytes:
        if len(self) >= CACHED_VALUES:
            self.clear()
        encoded = self[value] = self._encode_value(value)
        return encoded


def _any_value(value: Any) -> bytes:
    if isinstance(value, str):
        return _field(1, value.encode())  # also if empty
    if isinstance(value, bool):
        return _number(2, value)
    if isinstance(value, int):
        return _number(3, value)
    if isinstance(value, float):
        return _FLOAT + _DOUBLE.pack(value)
    if isinstance(value, Sequence):
        return _field(5, b"".join(_field(1, _any_value(item)) for item in value))
    return _field(1, str(value).encode())


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode()) if text else b""


def _field(number: int, data: bytes) -> bytes:
    return _field_start(number, len(data)) + data


@lru_cache(1024)
def _field_start(number: int, length: int) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(length)


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value & _64_BITS)


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    return bytes((value & 0x7F | 0x80,)) + _varint(value >> 7)


_ONE_BYTE = [bytes((value,)) for value in range(0x80)]
