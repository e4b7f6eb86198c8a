"""Spans -> an ExportTraceServiceRequest in Protobuf, byte by byte.

Written for what it costs, as is `otlp_json`: the message classes of the exporters take four times
as long. The messages are those of opentelemetry-proto, `trace/v1/trace.proto`; the encoding is that
of https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

_FIXED64, _DOUBLE, _FLAGS = Struct("<Q"), Struct("<d"), Struct("<I")
# Tags: the number of a field, and how its value is written (0 a number, 1 eight bytes, 2 a length
# and so many bytes, 5 four bytes).
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def encode(spans: Iterable[Any]) -> bytes:
    """The request.

    Parameters
    ----------
    spans : iterable of opentelemetry.sdk.trace.ReadableSpan
        That have ended; grouped by resource and scope.
    """
    groups: dict[tuple[int, int], tuple[Any, list[bytes]]] = {}
    for span in spans:
        key = id(span.resource), id(span.instrumentation_scope)
        groups.setdefault(key, (span, []))[1].append(_field(2, _span(span)))
    return b"".join(
        _field(
            1,
            _field(1, _attributes(1, one.resource.attributes))
            + _field(2, _field(1, _scope(one.instrumentation_scope)) + b"".join(some))
            + _text(3, one.resource.schema_url),
        )
        for one, some in groups.values()
    )


def _span(span: Any) -> bytes:
    context, parent, status = span.context, span.parent, span.status
    flags = 0x100  # whether the parent is remote
    above = b""
    if parent is not None:
        above = _field(4, parent.span_id.to_bytes(8, "big"))
        flags |= 0x200 * parent.is_remote  # is known, and it is
    told = _text(2, status.description or "")
    if status.status_code.value:
        told += _number(3, status.status_code.value)
    state = context.trace_state.to_header() if context.trace_state else ""
    return b"".join(
        (
            b"\n\x10%b\x12\x08%b" % (context.trace_id.to_bytes(16), context.span_id.to_bytes(8)),
            _text(3, state),
            above,
            _text(5, span.name),
            # The API counts from 0, and 0 is "unspecified" in OTLP.
            _number(6, span.kind.value + 1),
            b"\x39" + _FIXED64.pack(span.start_time),
            b"\x41" + _FIXED64.pack(span.end_time),
            _attributes(9, span.attributes),
            _number(10, span.dropped_attributes) if span.dropped_attributes else b"",
            *(_field(11, _event(event)) for event in span.events),
            _number(12, span.dropped_events) if span.dropped_events else b"",
            _field(15, told),
            b"\x85\x01" + _FLAGS.pack(flags),
        )
    )


def _event(event: Any) -> bytes:
    return b"".join(
        (
            b"\x09" + _FIXED64.pack(event.timestamp),
            _text(2, event.name),
            _attributes(3, event.attributes),
        )
    )


def _scope(scope: Any) -> bytes:
    return _text(1, scope.name) + _text(2, scope.version or "")


def _attributes(number: int, attributes: Mapping[str, Any] | None) -> bytes:
    return b"".join(
        _double(number, key) + _DOUBLE.pack(value)
        if type(value) is float
        else _known(number, key, value)
        if type(value) in (str, int)
        else _field(number, _text(1, key) + _field(2, _value(value)))
        for key, value in (attributes or {}).items()
    )


@lru_cache(1024)
def _double(number: int, key: str) -> bytes:
    """All of an attribute but its eight bytes."""
    return _field(number, _text(1, key) + b"\x12\x09\x21" + bytes(8))[:-8]


@lru_cache(4096)  # names of tiles, numbers of tiles and workers, outcomes
def _known(number: int, key: str, value: str | int) -> bytes:
    return _field(number, _text(1, key) + _field(2, _value(value)))


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
        return b"\x21" + _DOUBLE.pack(value)
    if isinstance(value, Sequence):
        return _field(5, b"".join(_field(1, _value(item)) for item in value))
    return _field(1, str(value).encode())


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode()) if text else b""


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value & 0xFFFFFFFFFFFFFFFF)


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _SMALL[value]
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_SMALL = [bytes((value,)) for value in range(0x80)]
