"""Encode spans as a line of OTLP/JSON, as the Collector's file exporter writes it.

Written for speed, because thousands are written while workers need the processors. The parts that
spans share (names and types of attributes) are formatted once, and orjson serializes the values;
dictionaries for every span, attribute and value would take half as long again. The encoding is
specified at https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from orjson import dumps

_SCALAR_FORMATS: dict[type, bytes] = {
    str: b'{"stringValue":%b}',
    bool: b'{"boolValue":%b}',
    int: b'{"intValue":"%b"}',
    float: b'{"doubleValue":%b}',
}
_FLAGS, _REMOTE = 0x100, 0x200  # it is known whether the parent is remote; it is
_SPAN_END = b"""%b%b,"droppedAttributesCount":%d,"droppedEventsCount":%d,"status":{"code":%d%b}}"""


def encode(spans: Iterable[Any]) -> bytes:
    """Return an ExportTraceServiceRequest in one line of JSON.

    Parameters
    ----------
    spans : iterable of opentelemetry.sdk.trace.ReadableSpan
        Ended spans. They are grouped by resource and scope.

    Raises
    ------
    ValueError
        A number is not finite: JSON cannot represent it.
    """
    groups: dict[tuple[int, int], tuple[Any, list[bytes]]] = {}
    for span in spans:
        key = id(span.resource), id(span.instrumentation_scope)
        groups.setdefault(key, (span, []))[1].append(_span(span))
    line = [b'{"resourceSpans":[']
    for owner, encoded in groups.values():
        line += [b"," * (len(line) > 1), _group_start(owner), b",".join(encoded), b"]}]}"]
    # Joined once: each copy of a long line needs new pages of memory.
    return b"".join((*line, b"]}\n"))


def _group_start(owner: Any) -> bytes:
    """Return the resource and the scope, up to the first span."""
    return b'{"resource":{"attributes":%b},"schemaUrl":%b,"scopeSpans":[{"scope":%b,"spans":[' % (
        _attributes(owner.resource.attributes),
        _scalar(owner.resource.schema_url),
        _scope(owner.instrumentation_scope),
    )


def _span(span: Any) -> bytes:
    context, parent, status = span.context, span.parent, span.status
    parent_id, flags = 0, _FLAGS
    if parent is not None:
        parent_id, flags = parent.span_id, _FLAGS | _REMOTE * parent.is_remote
    # The API counts kinds from 0, OTLP from 1.
    start = _span_start(context.trace_id, parent_id, flags, span.name, span.kind.value + 1)
    return start % (context.span_id, span.start_time, span.end_time) + _SPAN_END % (
        _attributes(span.attributes),
        _rare_fields(span),
        span.dropped_attributes,
        span.dropped_events,
        status.status_code.value,
        b',"message":%b' % _scalar(status.description) if status.description else b"",
    )


@lru_cache(256)
def _span_start(trace_id: int, parent_id: int, flags: int, name: str, kind: int) -> bytes:
    """Return a format for a span up to its attributes, with places for its id and times."""
    parent = b'"parentSpanId":"%016x",' % parent_id if parent_id else b""
    return (
        b'{"traceId":"%032x","spanId":"%%016x",%b"flags":%d,"name":%b,"kind":%d,'
        b'"startTimeUnixNano":"%%d","endTimeUnixNano":"%%d","attributes":'
    ) % (trace_id, parent, flags, _scalar(name).replace(b"%", b"%%"), kind)


def _rare_fields(span: Any) -> bytes:
    """Return events, links and the trace state, which most spans lack."""
    fields = b""
    if span.events:
        fields += b',"events":[%b]' % b",".join(map(_event, span.events))
    if span.links:
        fields += b',"links":[%b]' % b",".join(map(_link, span.links))
    if span.context.trace_state:
        fields += b',"traceState":%b' % _scalar(span.context.trace_state.to_header())
    return fields


def _link(link: Any) -> bytes:
    context = link.context
    return b'{"traceId":"%032x","spanId":"%016x","flags":%d,"attributes":%b}' % (
        context.trace_id,
        context.span_id,
        _FLAGS | _REMOTE * context.is_remote,
        _attributes(link.attributes),
    )


def _event(event: Any) -> bytes:
    return b'{"timeUnixNano":"%d","name":%b,"attributes":%b}' % (
        event.timestamp,
        _scalar(event.name),
        _attributes(event.attributes),
    )


def _scope(scope: Any) -> bytes:
    return b'{"name":%b,"version":%b}' % (_scalar(scope.name), _scalar(scope.version or ""))


def _attributes(attributes: Mapping[str, Any] | None) -> bytes:
    if not attributes:
        return b"[]"
    values = list(attributes.values())
    template, all_scalars = _attributes_format(tuple(attributes), tuple(map(type, values)))
    return template % tuple(_scalars(values) if all_scalars else map(_format_value, values))


@lru_cache(1024)
def _attributes_format(keys: tuple[str, ...], types: tuple[type, ...]) -> tuple[bytes, bool]:
    """Return a format for attributes, and whether all their values are scalars."""
    entries = b",".join(
        b'{"key":%b,"value":%b}'
        % (_scalar(key).replace(b"%", b"%%"), _SCALAR_FORMATS.get(kind, b"%b"))
        for key, kind in zip(keys, types, strict=True)
    )
    return b"[%b]" % entries, _SCALAR_FORMATS.keys() >= set(types)


def _scalars(values: Sequence[Any]) -> list[bytes]:
    """Return scalars in JSON, with one call unless a text has a comma or a lone surrogate."""
    with contextlib.suppress(TypeError):
        encoded = dumps(values)[1:-1]
        if b"null" not in encoded and len(pieces := encoded.split(b",")) == len(values):
            return pieces
    return list(map(_scalar, values))


def _format_value(value: Any) -> bytes:
    """Return a value for `_attributes_format`: a scalar alone, or a whole AnyValue."""
    return _scalar(value) if type(value) in _SCALAR_FORMATS else _any_value(value)


def _any_value(value: Any) -> bytes:
    if type(value) in _SCALAR_FORMATS:
        return _SCALAR_FORMATS[type(value)] % _scalar(value)
    for kind in (str, int, float):
        if isinstance(value, kind):  # a subclass, as numpy has
            return _any_value(kind(value))
    if isinstance(value, Sequence):
        return b'{"arrayValue":{"values":[%b]}}' % b",".join(map(_any_value, value))
    return _any_value(str(value))


def _scalar(value: Any) -> bytes:
    """Return a scalar in JSON."""
    try:
        encoded = dumps(value)
    except TypeError:  # a lone surrogate, or an integer beyond 64 bits
        return json.dumps(value).encode()
    if encoded == b"null":  # orjson's output for a non-finite number
        raise ValueError("JSON cannot represent a number that is not finite")
    return encoded
