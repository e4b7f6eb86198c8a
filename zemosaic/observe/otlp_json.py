"""Spans -> a line of OTLP/JSON, as the Collector's file exporter writes them.

Written for what it costs, text by text: a span takes a seventh of the time that it takes through
the message classes of the exporters, and thousands are written while workers want the processors.
The encoding is that of https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import Any


def encode(spans: Iterable[Any]) -> str:
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
    groups: dict[tuple[int, int], tuple[Any, list[str]]] = {}
    for span in spans:
        key = id(span.resource), id(span.instrumentation_scope)
        groups.setdefault(key, (span, []))[1].append(_span(span))
    resources = ",".join(
        f'{{"resource":{{"attributes":{_attributes(one.resource.attributes)}}},'
        f'"schemaUrl":{quoted(one.resource.schema_url)},'
        f'"scopeSpans":[{{"scope":{_scope(one.instrumentation_scope)},"spans":[{",".join(some)}]}}]}}'
        for one, some in groups.values()
    )
    return f'{{"resourceSpans":[{resources}]}}\n'


def _span(span: Any) -> str:
    context, status = span.context, span.status
    parent, flags = "", 0x100  # whether the parent is remote, as OTLP's other exporters tell it
    if span.parent is not None:
        parent = f'"parentSpanId":"{span.parent.span_id:016x}",'
        flags |= 0x200 * span.parent.is_remote  # is known, and it is
    message = f',"message":{quoted(status.description)}' if status.description else ""
    events = ""
    if span.events:
        told = ",".join(
            f'{{"timeUnixNano":"{event.timestamp}","name":{quoted(event.name)},'
            f'"attributes":{_attributes(event.attributes)}}}'
            for event in span.events
        )
        events = f',"events":[{told}]'
    return (
        f'{{"traceId":"{context.trace_id:032x}","spanId":"{context.span_id:016x}",{parent}'
        f'"flags":{flags},"name":{quoted(span.name)},'
        f'"kind":{span.kind.value + 1},'  # the API counts from 0, and 0 is "unspecified" in OTLP
        f'"startTimeUnixNano":"{span.start_time}","endTimeUnixNano":"{span.end_time}",'
        f'"attributes":{_attributes(span.attributes)}{events},'
        f'"droppedAttributesCount":{span.dropped_attributes},'
        f'"droppedEventsCount":{span.dropped_events},'
        f'"status":{{"code":{status.status_code.value}{message}}}}}'
    )


def _scope(scope: Any) -> str:
    return f'{{"name":{quoted(scope.name)},"version":{quoted(scope.version or "")}}}'


def _attributes(attributes: Mapping[str, Any] | None) -> str:
    told = (
        _known(key, value) if type(value) in (str, int) else f"{_key(key)}{_value(value)}}}"
        for key, value in (attributes or {}).items()
    )
    return f"[{','.join(told)}]"


@lru_cache(4096)  # names of tiles, numbers of tiles and workers, outcomes
def _known(key: str, value: str | int) -> str:
    return f"{_key(key)}{_value(value)}}}"


@cache
def _key(key: str) -> str:
    return f'{{"key":{quoted(key)},"value":'


def _value(value: Any) -> str:
    if isinstance(value, float):
        if value - value != 0:
            raise ValueError(f"{value} has no form in JSON")
        return f'{{"doubleValue":{float(value)!r}}}'
    if isinstance(value, str):
        return f'{{"stringValue":{quoted(value)}}}'
    if isinstance(value, bool):
        return f'{{"boolValue":{"true" if value else "false"}}}'
    if isinstance(value, int):
        return f'{{"intValue":"{value}"}}'
    if isinstance(value, Sequence):
        return f'{{"arrayValue":{{"values":[{",".join(map(_value, value))}]}}}}'
    return f'{{"stringValue":{quoted(str(value))}}}'
