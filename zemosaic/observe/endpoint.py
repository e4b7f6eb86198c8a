"""The OTLP endpoint that receives a trace, and the page that shows it; without the SDK."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from ..errors import UserError

DEFAULT_ENDPOINT = "http://127.0.0.1:4318"
TRACES = "/v1/traces"
EXPORTERS = ("none", "otlp", "console")
PROTOCOLS = ("grpc", "http/protobuf")


class Target(NamedTuple):
    """An endpoint as the exporters take it; `secure` means TLS, and concerns gRPC alone."""

    protocol: str
    address: str
    secure: bool


def exporters_from_environment() -> tuple[str, ...]:
    """Return the values of OTEL_TRACES_EXPORTER; none if it is not set.

    Raises
    ------
    UserError
        A value is not known.
    """
    text = os.environ.get("OTEL_TRACES_EXPORTER", "")
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    for name in names:
        if name not in EXPORTERS:
            choice = ", ".join(EXPORTERS)
            raise UserError(f"OTEL_TRACES_EXPORTER is {name!r}; choose from {choice}")
    return names


def endpoint_from_environment() -> str:
    """Return the OTLP endpoint of the environment; an empty string for none."""
    exporters = exporters_from_environment()
    if exporters and "otlp" not in exporters:
        return ""
    if traces := os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return _as_it_stands(traces)
    # The specification makes this the base of the endpoints of all signals.
    base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    if not base and "otlp" in exporters:
        base = "http://127.0.0.1:4317" if _protocol() == "grpc" else DEFAULT_ENDPOINT
    return traces_endpoint(_with_scheme(base)) if base else ""


def traces_endpoint(url: str) -> str:
    """Return the address for traces of a base address; gRPC has none.

    Raises
    ------
    UserError
        It is not an OTLP endpoint.
    """
    parts = urlsplit(check_endpoint(url))
    path = parts.path.rstrip("/")
    if export_target(url).protocol == "grpc" or path.endswith(TRACES):
        return url
    return parts._replace(path=path + TRACES).geturl()


def signal_endpoint(endpoint: str, signal: str) -> str:
    """Return the endpoint of "metrics" or "logs" beside the traces' endpoint; empty for none.

    OTEL_METRICS_EXPORTER and OTEL_LOGS_EXPORTER switch them off.
    """
    if os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip().lower() != "otlp":
        return ""
    if own := os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"):
        return _as_it_stands(own)
    if export_target(endpoint).protocol == "grpc":
        return endpoint
    parts = urlsplit(endpoint)
    if not parts.path.endswith(TRACES):
        return ""
    return parts._replace(path=f"{parts.path.removesuffix(TRACES)}/v1/{signal}").geturl()


def check_endpoint(url: str) -> str:
    """Return the endpoint unchanged.

    Raises
    ------
    UserError
        It is not an OTLP endpoint, or the protocol of the environment is not known.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https", "grpc") and parts.hostname and parts.port != 0
    except ValueError:  # an invalid port or IPv6 address
        good = False
    if not good:
        shown = url.rpartition("@")[2]  # not a user and a password
        raise UserError(f"{shown!r} is not an OTLP endpoint; use one like {DEFAULT_ENDPOINT}")
    if parts.username is not None and export_target(url).protocol == "grpc":
        raise UserError(
            f"{without_credentials(url)}: gRPC takes no user and password in the endpoint; "
            "use OTEL_EXPORTER_OTLP_HEADERS"
        )
    return url


def export_target(endpoint: str) -> Target:
    """Return the protocol and the address of an endpoint.

    The scheme ``grpc`` means gRPC, and so does port 4317 unless ``OTEL_EXPORTER_OTLP_PROTOCOL``
    names another protocol; everything else is HTTP. TLS follows from the scheme, and for ``grpc``
    from ``OTEL_EXPORTER_OTLP_INSECURE``.

    Raises
    ------
    UserError
        The protocol of the environment is not known.
    """
    parts = urlsplit(endpoint)
    protocol = _protocol() or ("grpc" if parts.port == 4317 else "http/protobuf")
    if protocol == "grpc" or parts.scheme == "grpc":
        # gRPC itself would take port 443.
        port = ":4317" if parts.scheme == "grpc" and parts.port is None else ""
        secure = parts.scheme == "https" or (
            parts.scheme == "grpc" and _variable("INSECURE").lower() == "false"
        )
        return Target("grpc", parts.netloc + port, secure)
    # Endpoints of the journal of 0.2.1 have no path.
    return Target("http", endpoint if parts.path else endpoint + TRACES, secure=False)


def check_timeout() -> None:
    """Check the time-out of the exporter, which the one for HTTP would ignore.

    Raises
    ------
    UserError
        It is not a number.
    """
    text = _variable("TIMEOUT")
    if text and not re.fullmatch(r"\d+\.?\d*|\.\d+", text):
        raise UserError(f"OTEL_EXPORTER_OTLP_TIMEOUT must be a number of seconds but is {text!r}")


def live_mode(live: str, endpoint: str) -> str:
    """Return how open spans are shown: "auto" is "snapshot" for the compose stack's address."""
    if live != "auto":
        return live
    if not endpoint:
        return "off"
    is_stack = is_loopback(endpoint) and urlsplit(endpoint).port in (4317, 4318)
    return "snapshot" if is_stack else "marker"


def channel_options(address: str) -> tuple[tuple[str, int], ...]:
    """Return the options of a gRPC channel: no proxy for this machine; it has another loopback."""
    return (("grpc.enable_http_proxy", 0),) if is_loopback(f"grpc://{address}") else ()


def is_loopback(url: str) -> bool:
    """Return whether the host of a URL is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def without_credentials(text: str) -> str:
    """Return a text without user and password in its URLs."""
    return re.sub(r"(?<=://)[^\s/?#]*@", "", text)


def trace_url(endpoint: str, trace_id: str, find: str = "") -> str:
    """Return the page of a trace in Jaeger, opened on the spans that match `find`.

    Jaeger is at ``JAEGER_URL``, or at port 16686 of the endpoint's host. Without a trace it is
    empty.
    """
    if not trace_id:
        return ""
    host = urlsplit(endpoint).hostname or "127.0.0.1"
    if ":" in host:  # IPv6
        host = f"[{host}]"
    page = os.environ.get("JAEGER_URL") or f"http://{host}:16686"
    query = f"?uiFind={quote(find)}" if find else ""
    return f"{page.rstrip('/')}/trace/{trace_id}{query}"


def _variable(name: str) -> str:
    """Return a variable of the exporter: for traces, else for all signals."""
    general = os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "")
    return (os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or general).strip()


def _protocol() -> str:
    protocol = _variable("PROTOCOL").lower()
    if protocol and protocol not in PROTOCOLS:
        choice = " or ".join(PROTOCOLS)
        raise UserError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; choose {choice}")
    return protocol


def _as_it_stands(url: str) -> str:
    """Return the full address of a signal, checked; without a path its path is the root."""
    checked = check_endpoint(_with_scheme(url))
    return checked if urlsplit(checked).path else f"{checked}/"


def _with_scheme(url: str) -> str:
    """Return an endpoint of gRPC, which may lack its scheme, with one."""
    return url if "://" in url or _protocol() != "grpc" else f"grpc://{url}"
