"""Where a trace is sent, and where it is then seen; without the SDK."""

from __future__ import annotations

import os
from urllib.parse import quote, urlsplit

from ..errors import UserError

DEFAULT_ENDPOINT = "http://127.0.0.1:4318"


def endpoint_from_environment() -> str:
    """The OTLP endpoint that the environment asks for, or an empty string."""
    if traces := os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return traces
    base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    # By the specification this one is for all signals, whose paths are added to its own.
    base = base.rstrip("/")
    return f"{base}/v1/traces" if "/" in base.partition("://")[2] else base


def check_endpoint(url: str) -> str:
    """The endpoint, if it looks like one.

    Raises
    ------
    UserError
        It does not.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https", "grpc") and parts.hostname and parts.port != 0
    except ValueError:  # of a port that is no port, or half a pair of brackets
        good = False
    if not good:
        raise UserError(f"{url!r} is no OTLP endpoint; give one like {DEFAULT_ENDPOINT}")
    return url


def trace_url(endpoint: str, trace_id: str, find: str = "") -> str:
    """Where Jaeger shows a trace: at JAEGER_URL, or where its image listens on that host.

    What is to be found there is marked, and the page opens on it.
    """
    host = urlsplit(endpoint).hostname or "127.0.0.1"
    if ":" in host:  # IPv6
        host = f"[{host}]"
    page = os.environ.get("JAEGER_URL") or f"http://{host}:16686"
    mark = f"?uiFind={quote(find)}" if find else ""
    return f"{page.rstrip('/')}/trace/{trace_id}{mark}"
