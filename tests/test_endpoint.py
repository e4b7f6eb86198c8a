"""The OTLP endpoint: from the environment, checked, and the page that shows its traces."""

from __future__ import annotations

import pytest

from zemosaic.observe.endpoint import (
    DEFAULT_ENDPOINT,
    check_endpoint,
    endpoint_from_environment,
    trace_url,
)


def test_the_environment_sets_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint for traces has precedence over the one for all signals."""
    assert endpoint_from_environment() == ""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318")
    assert endpoint_from_environment() == "http://all:4318"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1")
    assert endpoint_from_environment() == "http://[::1"  # `check_endpoint` refuses it
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
