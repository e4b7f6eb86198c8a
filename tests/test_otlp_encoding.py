"""Encoding of spans as OTLP/JSON, compared with the SDK's encoder."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from tests.helpers.environment import remove_proxies
from tests.helpers.otlp_receiver import http_receiver, plain, read_otlp_json, spans_of
from zemosaic.observe import otlp_json
from zemosaic.observe.exporters import otlp_sender


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
        "under a remote one",
        set_span_in_context(NonRecordingSpan(far)),
        links=[Link(far, {"k": 1})],
    ):
        pass
    return list(memory.get_finished_spans())


def test_a_line_equals_the_message() -> None:
    """Attributes of all types, events, links, dropped fields and a remote parent are kept."""
    spans = spans_of_all_kinds()
    line = otlp_json.encode(spans)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    message = list(encode_spans(spans).resource_spans)
    assert read_otlp_json(line.decode()) == message
    assert read_otlp_json(otlp_json.encode([]).decode()) == []


def one_span(attributes: dict[str, Any], name: str = "s", remote: bool = False) -> ReadableSpan:
    """Return a span with these attributes and a parent."""
    state = TraceState([("a", "b")] if remote else [])
    parent = SpanContext(1, 5, remote, TraceFlags(1), state)
    own = SpanContext(1, 6, False, TraceFlags(1), state)
    return ReadableSpan(
        name, own, parent, RESOURCE, attributes,
        start_time=1, end_time=2, instrumentation_scope=SCOPE,
    )  # fmt: skip


RESOURCE, SCOPE = Resource({"service.name": "s"}), InstrumentationScope("zemosaic")
SDK_SPANS = spans_of_all_kinds()[-2:]


def decoded(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes after encoding and decoding."""
    (span,) = spans_of(read_otlp_json(otlp_json.encode([one_span(attributes)]).decode()))
    return plain(span.attributes)


SENDABLE = st.characters(exclude_categories=["Cs"])  # no surrogates
SCALARS = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(SENDABLE)
    | st.booleans()
)


@given(st.dictionaries(st.text(SENDABLE), SCALARS | st.lists(SCALARS)))
def test_every_value_is_kept_to_the_last_bit(attributes: dict[str, Any]) -> None:
    """The file keeps values of all types, under any name."""
    assert repr(decoded(attributes)) == repr(attributes)


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
def test_spans_are_encoded_as_by_the_sdk(
    given: list[tuple[tuple[str, bool], dict[str, Any]]],
) -> None:
    """Several names and parents alternate, with attributes of all names and types."""
    spans: list[Any] = [one_span(attributes, *group) for group, attributes in given]
    spans[1:1] = SDK_SPANS
    message = list(encode_spans(spans).resource_spans)
    in_file = read_otlp_json(otlp_json.encode(spans).decode())
    assert spans_of(in_file) == spans_of(message)


def test_numpy_numbers_and_other_objects_are_encoded() -> None:
    """Numbers stay numbers, and other objects become texts."""
    odd = {
        "number": np.float64(0.1), "text": np.str_("a"), "kind": SpanKind.SERVER,
        "code": StatusCode.ERROR, "list": (np.float64(0.5), 1), "50 %b": "50 %b", "none": None,
        "code 2": TraceFlags(1),
    }  # fmt: skip
    expected = {
        "number": 0.1, "text": "a", "kind": "SpanKind.SERVER", "code": "StatusCode.ERROR",
        "list": [0.5, 1], "50 %b": "50 %b", "none": "None", "code 2": 1,
    }  # fmt: skip
    assert decoded(odd) == expected


@pytest.mark.parametrize("value", [math.nan, -math.inf, [1.0, math.nan], np.float64(math.inf)])
def test_a_non_finite_number_is_refused(value: Any) -> None:
    """JSON has no NaN, and null would lose the value; a text "null" is valid."""
    with pytest.raises(ValueError, match="not finite"):
        otlp_json.encode([one_span({"a": "null", "b": value})])
    text = '{"doubleValue":null}'
    assert decoded({text: text, "null": [text]}) == {text: text, "null": [text]}


def test_a_lone_surrogate_is_written_to_the_file() -> None:
    """It is escaped as by `json`; resource attributes of the environment may have one."""
    attributes = {"a": "\udcff", "b": ["\udcff"], "\udcff": 0.5, "c": 1}
    line = otlp_json.encode([one_span(attributes)])
    (span,) = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    values = {entry["key"]: entry["value"] for entry in span["attributes"]}
    assert values["a"] == {"stringValue": "\udcff"}
    assert values["b"] == {"arrayValue": {"values": [{"stringValue": "\udcff"}]}}
    assert values["\udcff"] == {"doubleValue": 0.5}


def test_an_unsendable_text_loses_its_batch_only() -> None:
    """The next batch is sent."""
    span = ReadableSpan("\udcff", spans_of_all_kinds()[0].context, start_time=1, end_time=2)
    with http_receiver() as (url, received):
        exporter = otlp_sender(url)
        with contextlib.suppress(UnicodeEncodeError):  # a failure to the queue as well
            assert exporter([span])
        assert exporter(spans_of_all_kinds()[:1]) == ""
        exporter.shutdown()
    assert len(received.spans) == 1
