"""Spans -> a line of OTLP/JSON, as the Collector's file exporter writes them.

Written for what it costs: a span takes a fifteenth of the time that it takes through the message
classes of the exporters, and thousands are written while workers want the processors. What spans
have in common (their attributes' names and types) is put together once, and orjson writes the
values into it; dictionaries for every span, attribute and value take half as long again.
The encoding is that of https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from orjson import dumps

from .span_tables import Table, in_tables

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
    spans : iterable of opentelemetry.sdk.trace.ReadableSpan or of Table
        That have ended; grouped by resource and scope.

    Raises
    ------
    ValueError
        A number is not finite, for which JSON has no form.
    """
    groups: dict[tuple[int, int], tuple[Any, list[bytes]]] = {}
    for one, some in in_tables(spans):
        key = id(one.resource), id(one.instrumentation_scope)
        told = _table(some) if isinstance(some, Table) else [_span(some)]
        groups.setdefault(key, (one, []))[1].extend(told)
    line = [b'{"resourceSpans":[']
    for one, some in groups.values():
        line += [b"," * (len(line) > 1), _head_of_all(one), *_listed(some), b"]}]}"]
    # Joined once: the line is long, and every copy takes new pages of memory.
    return b"".join((*line, b"]}\n"))


def _head_of_all(one: Any) -> bytes:
    """The resource and the scope of a span, up to its spans."""
    return b'{"resource":{"attributes":%b},"schemaUrl":%b,"scopeSpans":[{"scope":%b,"spans":[' % (
        _attributes(one.resource.attributes),
        _plain(one.resource.schema_url),
        _scope(one.instrumentation_scope),
    )


def _listed(told: list[bytes]) -> list[bytes]:
    """With commas between them."""
    listed = [b","] * (2 * len(told) - 1)
    listed[::2] = told
    return listed


def _span(span: Any) -> bytes:
    context, status = span.context, span.status
    message = b',"message":%b' % _plain(status.description) if status.description else b""
    events = b""
    if span.events:
        events = b',"events":[%b]' % b",".join(map(_event, span.events))
    # The API counts kinds from 0, and 0 is "unspecified" in OTLP.
    head = _head(context.trace_id, span.parent, span.name, span.kind.value + 1)
    return head % (context.span_id, span.start_time, span.end_time) + _TAIL % (
        _attributes(span.attributes),
        events,
        span.dropped_attributes,
        span.dropped_events,
        status.status_code.value,
        message,
    )


_TAIL = b"""%b%b,"droppedAttributesCount":%d,"droppedEventsCount":%d,"status":{"code":%d%b}}"""


def _head(trace: int, above: Any, name: str, kind: int) -> bytes:
    """A span up to its attributes, with places for its id and times."""
    parent, flags = b"", 0x100  # whether the parent is remote, as OTLP's other exporters tell it
    if above is not None:
        parent = b'"parentSpanId":"%016x",' % above.span_id
        flags |= 0x200 * above.is_remote  # is known, and it is
    return (
        b'{"traceId":"%032x","spanId":"%%016x",%b"flags":%d,"name":%b,"kind":%d,'
        b'"startTimeUnixNano":"%%d","endTimeUnixNano":"%%d","attributes":'
    ) % (trace, parent, flags, _plain(name).replace(b"%", b"%%"), kind)


def _table(table: Table) -> list[bytes]:
    common = table.common
    form, scalars = _form(table.keys, table.kinds)
    head = _head(common.trace_id, common.parent, common.name, 1)
    span = head + form + _TAIL % (b"", b"", 0, 0, 0, b"")
    told = [_scalars(z) if scalars else map(_told, z) for z in table.columns]
    return list(map(span.__mod__, zip(table.ids, table.starts, table.ends, *told, strict=True)))


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
    values = list(attributes.values())
    form, scalars = _form(tuple(attributes), tuple(map(type, values)))
    return form % tuple(_scalars(values) if scalars else map(_told, values))


@lru_cache(1024)
def _form(keys: tuple[str, ...], kinds: tuple[type, ...]) -> tuple[bytes, bool]:
    """Attributes without their values, and whether these are all scalars."""
    told = b",".join(
        b'{"key":%b,"value":%b}' % (_plain(key).replace(b"%", b"%%"), _SCALARS.get(kind, b"%b"))
        for key, kind in zip(keys, kinds, strict=True)
    )
    return b"[%b]" % told, _SCALARS.keys() >= set(kinds)


def _scalars(values: Sequence[Any]) -> list[bytes]:
    """Scalars in JSON; by one call, unless a text has a comma or no form in UTF-8."""
    with contextlib.suppress(TypeError):
        told = dumps(values)[1:-1]
        if b"null" not in told and len(split := told.split(b",")) == len(values):
            return split
    return list(map(_plain, values))


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
        told = dumps(value)
    except TypeError:  # half a character, as in odd names of files, or beyond 64 bits
        return json.dumps(value).encode()
    if told == b"null":  # so orjson writes a number that is not finite
        raise ValueError("a number that is not finite has no form in JSON")
    return told
