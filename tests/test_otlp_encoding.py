"""Encoding of spans as OTLP, in JSON and in Protobuf, compared with the SDK's encoder."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from zemosaic.observe.span_tables import SharedFields, SpanTable

from tests.helpers.environment import remove_proxies
from tests.helpers.otlp_receiver import http_receiver, plain, read_otlp_json, spans_of
from zemosaic.observe import otlp_json, otlp_proto
from zemosaic.observe.exporters import _otlp_exporter, _single_spans


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect to collectors directly."""
    remove_proxies(monkeypatch)


def spans_of_all_kinds() -> list[ReadableSpan]:
    """Return spans of the SDK with every field that a span can have."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(
        resource=Resource({"service.name": "s", "process.command_args": ["a", "b"]}, "http://u"),
        span_limits=SpanLimits(max_events=2, max_span_attributes=9),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("zemosaic", "1")
    values: list[Any] = [
        "", "\u00e9\u2713", True, False, 0, 1, -1, 2**63 - 1, 0.0, -1.5, 1e300, [1, 2], [0.5, -0.5],
        ["x", ""], [True],
    ]  # fmt: skip
    with tracer.start_as_current_span("above", kind=SpanKind.SERVER) as above:
        for number, value in enumerate(values):
            with tracer.start_as_current_span(f"span {number}", attributes={"v": value}) as span:
                if number == 3:
                    span.set_status(Status(StatusCode.ERROR, "why \u2713"))
                if number == 4:
                    span.set_status(Status(StatusCode.OK))
                for event in range(number):
                    span.add_event("beat", {"n": event, "t": [0.5] * event or [1.0]})
        above.set_attributes({f"key {k}": k * 1000 for k in range(12)})
    far = SpanContext(1 << 100, 7, True, TraceFlags(1), TraceState([("a", "b")]))
    with tracer.start_as_current_span(
        "under a remote one", context=set_span_in_context(NonRecordingSpan(far))
    ):
        pass
    return list(memory.get_finished_spans())


def test_a_message_equals_the_one_of_the_sdk() -> None:
    """Attributes of all types, events, dropped fields and a remote parent are encoded alike."""
    spans = spans_of_all_kinds()
    assert otlp_proto.encode(spans) == encode_spans(spans).SerializeToString()
    assert otlp_proto.encode([]) == b""


def test_a_line_equals_the_message() -> None:
    """A line has the same fields, except a trace state, which the command never sets."""
    spans = spans_of_all_kinds()
    line = otlp_json.encode(spans)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    message = list(encode_spans(spans).resource_spans)
    for span in spans_of(message):
        span.ClearField("trace_state")
    assert read_otlp_json(line.decode()) == message
    assert read_otlp_json(otlp_json.encode([]).decode()) == []


def shared_fields(name: str = "s", remote: bool = False) -> SharedFields:
    above = SpanContext(1, 5, remote, TraceFlags(1), TraceState([("a", "b")] if remote else []))
    return SharedFields(name, 1, above.trace_flags, above.trace_state, above, RESOURCE, SCOPE)


def one_span(
    attributes: dict[str, Any], shared: SharedFields | None = None, number: int = 2
) -> SpanTable:
    """Return a table of one span."""
    columns = [(value,) for value in attributes.values()]
    types = tuple(map(type, attributes.values()))
    return SpanTable(
        shared or shared_fields(),
        (*attributes,),
        types,
        (number,),
        (number,),
        (2 * number,),
        columns,
    )


RESOURCE, SCOPE = Resource({"service.name": "s"}), InstrumentationScope("zemosaic")
SDK_SPANS = spans_of_all_kinds()[-2:]


def decoded(attributes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return attributes after encoding and decoding, by the file and by the message."""
    spans = [one_span(attributes)]
    (in_file,) = spans_of(read_otlp_json(otlp_json.encode(spans).decode()))
    message = ExportTraceServiceRequest.FromString(otlp_proto.encode(spans))
    (in_message,) = spans_of(list(message.resource_spans))
    return plain(in_file.attributes), plain(in_message.attributes)


SENDABLE = st.characters(exclude_categories=["Cs"])  # no surrogates
SCALARS = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(SENDABLE)
    | st.booleans()
)


@given(st.dictionaries(st.text(SENDABLE), SCALARS | st.lists(SCALARS)))
def test_every_value_is_kept_to_the_last_bit(attributes: dict[str, Any]) -> None:
    """File and message keep values of all types, under any name."""
    in_file, in_message = decoded(attributes)
    assert repr(in_file) == repr(in_message) == repr(attributes)


@given(
    st.lists(
        st.builds(
            lambda group, attributes: (group, attributes),
            st.sampled_from([("x", False), ("50 %", False), ("y, z", True)]),
            st.fixed_dictionaries({"a, %b": SCALARS, "b": st.floats(-1, 1) | st.integers(-9, 9)})
            | st.dictionaries(st.sampled_from("abc"), SCALARS | st.lists(st.floats(-1, 1))),
        )
    )
)
def test_spans_in_tables_are_encoded_as_by_the_sdk(
    given: list[tuple[tuple[str, bool], dict[str, Any]]],
) -> None:
    """Several names and parents alternate, with attributes of all names and types."""
    shared = {group: shared_fields(*group) for group, _ in given}
    spans: list[Any] = [
        one_span(attributes, shared[group], number)
        for number, (group, attributes) in enumerate(given, 1)
    ]
    spans[1:1] = SDK_SPANS
    message = encode_spans(_single_spans(spans))
    assert otlp_proto.encode(spans) == message.SerializeToString()
    in_file = read_otlp_json(otlp_json.encode(spans).decode())
    for span in spans_of(list(message.resource_spans)):
        span.ClearField("trace_state")
    assert spans_of(in_file) == spans_of(list(message.resource_spans))


def test_numpy_numbers_and_other_objects_are_encoded() -> None:
    """Numbers stay numbers, and other objects become texts; tables do not filter them."""
    odd = {
        "number": np.float64(0.1), "text": np.str_("a"), "kind": SpanKind.SERVER,
        "code": StatusCode.ERROR, "list": (np.float64(0.5), 1), "50 %b": "50 %b", "none": None,
        "code 2": TraceFlags(1),
    }  # fmt: skip
    expected = {
        "number": 0.1, "text": "a", "kind": "SpanKind.SERVER", "code": "StatusCode.ERROR",
        "list": [0.5, 1], "50 %b": "50 %b", "none": "None", "code 2": 1,
    }  # fmt: skip
    assert decoded(odd) == (expected, expected)


@pytest.mark.parametrize("value", [math.nan, -math.inf, [1.0, math.nan], np.float64(math.inf)])
def test_a_non_finite_number_is_refused(value: Any) -> None:
    """JSON has no NaN, and null would lose the value; a text "null" is valid."""
    with pytest.raises(ValueError, match="not finite"):
        otlp_json.encode([one_span({"a": "null", "b": value})])
    text = '{"doubleValue":null}'
    assert decoded({text: text, "null": [text]})[0] == {text: text, "null": [text]}


def test_a_lone_surrogate_is_written_to_the_file() -> None:
    """It is escaped as by `json`; resource attributes of the environment may have one."""
    attributes = {"a": "\udcff", "b": ["\udcff"], "\udcff": 0.5, "c": 1}
    line = otlp_json.encode([one_span(attributes)])
    (span,) = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    values = {entry["key"]: entry["value"] for entry in span["attributes"]}
    assert values["a"] == {"stringValue": "\udcff"}
    assert values["b"] == {"arrayValue": {"values": [{"stringValue": "\udcff"}]}}
    assert values["\udcff"] == {"doubleValue": 0.5}


@pytest.mark.parametrize("has_client", [True, False])
def test_another_version_of_the_sdk_sends_its_own_messages(
    has_client: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client of an exporter has no public name; without it, the SDK encodes."""
    messages: list[list[ReadableSpan]] = []
    monkeypatch.setattr(otlp_proto, "encode", lambda spans: messages.append(spans) or b"")
    with http_receiver() as (url, received):
        exporter = _otlp_exporter(url)
        if not has_client:
            monkeypatch.setattr(exporter, "_client", None)
        spans = spans_of_all_kinds()
        assert exporter.export(spans) is SpanExportResult.SUCCESS
        assert len(received.spans) == (0 if has_client else len(spans))
        exporter.shutdown()
    assert len(messages) == has_client


def test_an_unsendable_text_loses_its_batch_only() -> None:
    """The exporter reports a failure and does not raise."""
    span = ReadableSpan("\udcff", spans_of_all_kinds()[0].context, start_time=1, end_time=2)
    with http_receiver() as (url, received):
        exporter = _otlp_exporter(url)
        assert exporter.export([span]) is SpanExportResult.FAILURE
        assert exporter.export(spans_of_all_kinds()[:1]) is SpanExportResult.SUCCESS
        exporter.shutdown()
    assert len(received.spans) == 1
