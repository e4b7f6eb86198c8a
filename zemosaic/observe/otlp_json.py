"""Spans -> a line of OTLP/JSON, as the Collector's file exporter writes them.

Written for what it costs: a span takes a fifteenth of the time that it takes through the message
classes of the exporters, and thousands are written while workers want the processors. What spans
have in common (their attributes' names and types) is put together once, and orjson writes the
values into it; dictionaries for every span, attribute and value take half as long again.
The encoding is that of https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from orjson import dumps

_SCALARS: dict[type, bytes] = {
    str: b'{"stringValue":%b}',
    bool: b'{"boolValue":%b}',
    int: b'{"intValue":"%b"}',
    float: b'{"doubleValue":%b}',
}


def encode(spans: Iterable[Any]) -> bytes:
    """One line: an ExportTraceServiceRequest in JSON.

    Parameters
    ----------
    spans : iterable of opentelemetry.sdk.trace.ReadableSpan
        That have ended; grouped by resource and scope.

    Raises
    ------
    ValueError
        A number is not finite, for which JSON has no form.
    """
    groups: dict[tuple[int, int], tuple[Any, list[bytes]]] = {}
    for span in spans:
        key = id(span.resource), id(span.instrumentation_scope)
        groups.setdefault(key, (span, []))[1].append(_span(span))
    told = b",".join([_group(one, some) for one, some in groups.values()])
    # So orjson writes a number that is not finite; in a text the quotes would be escaped.
    if b'"doubleValue":null' in told:
        raise ValueError("a number that is not finite has no form in JSON")
    return b"".join((b'{"resourceSpans":[', told, b"]}\n"))


def _group(one: Any, spans: list[bytes]) -> bytes:
    """Spans with the resource and the scope of one of them; `%` is slow with what is so long."""
    head = b'{"resource":{"attributes":%b},"schemaUrl":%b,"scopeSpans":[{"scope":%b,"spans":[' % (
        _attributes(one.resource.attributes),
        _plain(one.resource.schema_url),
        _scope(one.instrumentation_scope),
    )
    return b"".join((head, b",".join(spans), b"]}]}"))


def _span(span: Any) -> bytes:
    context, above, status = span.context, span.parent, span.status
    parent, flags = b"", 0x100  # whether the parent is remote, as OTLP's other exporters tell it
    if above is not None:
        parent = b'"parentSpanId":"%016x",' % above.span_id
        flags |= 0x200 * above.is_remote  # is known, and it is
    message = b',"message":%b' % _plain(status.description) if status.description else b""
    events = b""
    if span.events:
        events = b',"events":[%b]' % b",".join(map(_event, span.events))
    return (
        b'{"traceId":"%032x","spanId":"%016x",%b"flags":%d,"name":%b,"kind":%d,'
        b'"startTimeUnixNano":"%d","endTimeUnixNano":"%d","attributes":%b%b,'
        b'"droppedAttributesCount":%d,"droppedEventsCount":%d,"status":{"code":%d%b}}'
    ) % (
        context.trace_id,
        context.span_id,
        parent,
        flags,
        _plain(span.name),
        span.kind.value + 1,  # the API counts from 0, and 0 is "unspecified" in OTLP
        span.start_time,
        span.end_time,
        _attributes(span.attributes),
        events,
        span.dropped_attributes,
        span.dropped_events,
        status.status_code.value,
        message,
    )


def _event(event: Any) -> bytes:
    return b'{"timeUnixNano":"%d","name":%b,"attributes":%b}' % (
        event.timestamp,
        _plain(event.name),
        _attributes(event.attributes),
    )


def _scope(scope: Any) -> bytes:
    return b'{"name":%b,"version":%b}' % (_plain(scope.name), _plain(scope.version or ""))


def _attributes(attributes: Mapping[str, Any] | None) -> bytes:
    if not attributes:
        return b"[]"
    values = tuple(attributes.values())
    form, scalars = _form(tuple(attributes), tuple(map(type, values)))
    try:
        told = dumps(values)[1:-1].split(b",") if scalars else []
    except TypeError:
        told = []
    if len(told) != len(values):  # no scalars, or a comma in a text
        told = [_told(value) for value in values]
    return form % tuple(told)


@lru_cache(1024)
def _form(keys: tuple[str, ...], kinds: tuple[type, ...]) -> tuple[bytes, bool]:
    """Attributes without their values, and whether these are all scalars."""
    told = b",".join(
        b'{"key":%b,"value":%b}' % (_plain(key).replace(b"%", b"%%"), _SCALARS.get(kind, b"%b"))
        for key, kind in zip(keys, kinds, strict=True)
    )
    return b"[%b]" % told, _SCALARS.keys() >= set(kinds)


def _told(value: Any) -> bytes:
    """What a form has no more than a place for: a scalar, or else the whole of an AnyValue."""
    return _plain(value) if type(value) in _SCALARS else _value(value)


def _value(value: Any) -> bytes:
    """An AnyValue."""
    if type(value) in _SCALARS:
        return _SCALARS[type(value)] % _plain(value)
    for kind in (str, int, float):
        if isinstance(value, kind):  # numpy's, say
            return _value(kind(value))
    if isinstance(value, Sequence):
        return b'{"arrayValue":{"values":[%b]}}' % b",".join(map(_value, value))
    return _value(str(value))


def _plain(value: Any) -> bytes:
    """A scalar in JSON."""
    try:
        return dumps(value)
    except TypeError:  # half a character, as in odd names of files, or beyond 64 bits
        return json.dumps(value).encode()
