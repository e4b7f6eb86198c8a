"""The OTLP endpoint: from the environment, checked, and the page that shows its traces."""

from __future__ import annotations

import pytest

from zemosaic.observe.endpoint import (
    DEFAULT_ENDPOINT,
    check_endpoint,
    endpoint_from_environment,
    export_target,
    live_mode,
    trace_url,
    traces_endpoint,
)


def test_the_environment_sets_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint for traces has precedence over the one for all signals."""
    assert endpoint_from_environment() == ""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318")
    assert endpoint_from_environment() == "http://all:4318/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1")
    with pytest.raises(ValueError, match="is not an OTLP endpoint"):
        endpoint_from_environment()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/here")
    assert endpoint_from_environment() == "http://traces:4318/here"


@pytest.mark.parametrize(
    "url",
    [
        DEFAULT_ENDPOINT,
        "http://localhost:4317",
        "https://collector.example/otlp",
        "grpc://collector:4317",
        "http://[::1]:4318",
    ],
)
def test_a_valid_endpoint_is_returned_unchanged(url: str) -> None:
    """HTTP, HTTPS and gRPC endpoints are valid, with or without a path."""
    assert check_endpoint(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "localhost:4318",
        "127.0.0.1:4318",
        "tiles/*.fits",
        "http://",
        "http:///v1/traces",
        "ftp://h:4318",
        "http://h:0",
        "http://h:99999",
        "http://h:port",
        "http://[::1",
    ],
)
def test_an_invalid_endpoint_is_refused_by_name(url: str) -> None:
    """The message repeats the input and gives an example."""
    with pytest.raises(
        ValueError, match="is not an OTLP endpoint; use one like http://"
    ) as refusal:
        check_endpoint(url)
    assert repr(url) in str(refusal.value)


@pytest.mark.parametrize(
    ("endpoint", "jaeger", "page"),
    [
        ("http://127.0.0.1:4318", None, "http://127.0.0.1:16686/trace/abc"),
        ("grpc://observatory:4317", None, "http://observatory:16686/trace/abc"),
        ("http://[::1]:4318", None, "http://[::1]:16686/trace/abc"),
        ("", None, "http://127.0.0.1:16686/trace/abc"),
        ("http://h:4318", "https://jaeger.example/ui/", "https://jaeger.example/ui/trace/abc"),
        ("http://h:4318", "", "http://h:16686/trace/abc"),
    ],
)
def test_the_link_opens_jaeger(
    endpoint: str, jaeger: str | None, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is at JAEGER_URL, or on the host of the collector."""
    if jaeger is not None:
        monkeypatch.setenv("JAEGER_URL", jaeger)
    assert trace_url(endpoint, "abc") == page
    assert trace_url(endpoint, "abc", "a.b=1") == f"{page}?uiFind=a.b%3D1"


def test_no_link_without_a_trace() -> None:
    """A run that was not recorded has no page."""
    assert trace_url("http://127.0.0.1:4318", "") == ""


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://h:4318", "http://h:4318/v1/traces"),
        ("http://h:4318/", "http://h:4318/v1/traces"),
        ("https://h/otlp", "https://h/otlp/v1/traces"),
        ("https://h/otlp/", "https://h/otlp/v1/traces"),
        ("https://h/otlp/v1/traces", "https://h/otlp/v1/traces"),
        ("https://h/otlp?key=1", "https://h/otlp/v1/traces?key=1"),
        ("grpc://h:4317", "grpc://h:4317"),
        ("http://h:4317", "http://h:4317"),
    ],
)
def test_a_base_address_gets_the_path_of_traces(url: str, address: str) -> None:
    """The option --otlp takes a base address, as OTEL_EXPORTER_OTLP_ENDPOINT does."""
    assert traces_endpoint(url) == address


@pytest.mark.parametrize(
    ("live", "endpoint", "mode"),
    [
        ("auto", "http://127.0.0.1:4318/v1/traces", "snapshot"),
        ("auto", "grpc://localhost:4317", "snapshot"),
        ("auto", "http://[::1]:4318/v1/traces", "snapshot"),
        ("auto", "http://127.0.0.1:14318/v1/traces", "marker"),
        ("auto", "https://tempo.example/otlp/v1/traces", "marker"),
        ("auto", "", "off"),
        ("snapshot", "https://badger.example/v1/traces", "snapshot"),
        ("off", "http://127.0.0.1:4318/v1/traces", "off"),
    ],
)
def test_snapshots_go_only_where_the_store_replaces(live: str, endpoint: str, mode: str) -> None:
    """By default the address of the compose stack gets snapshots, any other one markers."""
    assert live_mode(live, endpoint) == mode


@pytest.mark.parametrize("url", ["http://me:secret@", "http://me:se/cret@h:4318", "me:secret@h"])
def test_a_refused_endpoint_keeps_its_password(url: str) -> None:
    """The message about an invalid endpoint has neither user nor password."""
    with pytest.raises(ValueError, match="is not an OTLP endpoint") as refusal:
        check_endpoint(url)
    assert "me" not in str(refusal.value).replace("endpoint", "")
    assert "cret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "value", "endpoint"),
    [
        ("OTEL_TRACES_EXPORTER", "none", ""),
        ("OTEL_TRACES_EXPORTER", "console", ""),
        ("OTEL_TRACES_EXPORTER", "otlp", "http://all:4318/v1/traces"),
        ("OTEL_TRACES_EXPORTER", "console, OTLP", "http://all:4318/v1/traces"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://h:1", "http://h:1/"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://h:1/x", "http://h:1/x"),
    ],
)
def test_the_environment_chooses_the_exporter(
    variable: str, value: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporters are chosen as the specification says; the endpoint for traces stands."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318")
    monkeypatch.setenv(variable, value)
    assert endpoint_from_environment() == endpoint


def test_otlp_alone_has_a_default_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_TRACES_EXPORTER=otlp needs no endpoint."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    assert endpoint_from_environment() == "http://127.0.0.1:4318/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert endpoint_from_environment() == "http://127.0.0.1:4317"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
    assert endpoint_from_environment() == "grpc://collector:4317"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "nonsense"),
    ],
)
def test_an_unknown_value_is_refused_in_one_line(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line has the value and the choices."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"{value}.*choose"):
        endpoint_from_environment()


@pytest.mark.parametrize(
    ("endpoint", "insecure", "secure"),
    [
        ("grpc://h", "", False),
        ("grpc://h", "false", True),
        ("grpc://h", "TRUE", False),
        ("http://h:4317", "false", False),
        ("https://h:4317", "true", True),
    ],
)
def test_insecure_counts_where_the_scheme_leaves_it_open(
    endpoint: str, insecure: str, secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """http and https decide about TLS; for grpc OTEL_EXPORTER_OTLP_INSECURE does."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_INSECURE", insecure)
    assert export_target(endpoint).secure == secure
