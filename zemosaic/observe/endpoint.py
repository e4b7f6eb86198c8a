"""The OTLP endpoint that receives a trace, and the page that shows it; without the SDK."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from ..errors import UserError

DEFAULT_ENDPOINT = "http://127.0.0.1:4318"


class Target(NamedTuple):
    """An endpoint as the exporters take it; `secure` means TLS, and concerns gRPC alone."""

    protocol: str
    address: str
    secure: bool


def endpoint_from_environment() -> str:
    """Return the OTLP endpoint of the environment, or an empty string."""
    if traces := os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return traces
    # The specification makes this the base of the endpoints of all signals.
    base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").rstrip("/")
    return f"{base}/v1/traces" if "/" in base.partition("://")[2] else base


def check_endpoint(url: str) -> str:
    """Return the endpoint unchanged.

    Raises
    ------
    UserError
        It is not an OTLP endpoint.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https", "grpc") and parts.hostname and parts.port != 0
    except ValueError:  # an invalid port or IPv6 address
        good = False
    if not good:
        raise UserError(f"{url!r} is not an OTLP endpoint; use one like {DEFAULT_ENDPOINT}")
    return url


def export_target(endpoint: str) -> Target:
    """Return the protocol and the address of an endpoint.

    The scheme ``grpc`` means gRPC, and so does port 4317 unless ``OTEL_EXPORTER_OTLP_PROTOCOL``
    names another protocol; everything else is HTTP.
    """
    parts = urlsplit(endpoint)
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if not protocol:
        protocol = "grpc" if parts.port == 4317 else "http/protobuf"
    if protocol == "grpc" or parts.scheme == "grpc":
        # gRPC itself would take port 443.
        port = ":4317" if parts.scheme == "grpc" and parts.port is None else ""
        return Target("grpc", parts.netloc + port, parts.scheme == "https")
    if not parts.path.rstrip("/"):
        endpoint = endpoint.rstrip("/") + "/v1/traces"
    return Target("http", endpoint, secure=False)


def trace_url(endpoint: str, trace_id: str, find: str = "") -> str:
    """Return the page of a trace in Jaeger, opened on the spans that match `find`.

    Jaeger is at ``JAEGER_URL``, or at port 16686 of the endpoint's host.
    """
    host = urlsplit(endpoint).hostname or "127.0.0.1"
    if ":" in host:  # IPv6
        host = f"[{host}]"
    page = os.environ.get("JAEGER_URL") or f"http://{host}:16686"
    query = f"?uiFind={quote(find)}" if find else ""
    return f"{page.rstrip('/')}/trace/{trace_id}{query}"
