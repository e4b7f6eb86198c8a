"""Whether the collector and the page of Jaeger can be reached."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from ..observe.endpoint import (
    DEFAULT_ENDPOINT,
    endpoint_from_environment,
    export_target,
    is_loopback,
    trace_url,
    traces_endpoint,
    without_credentials,
)

TIMEOUT = 3.0  # seconds for a connection


@dataclass(frozen=True)
class Collector:
    """A collector: whether it has to be there, and why it cannot be used, empty if it can."""

    endpoint: str
    expected: bool
    problem: str

    @property
    def address(self) -> str:
        """Its endpoint without user and password."""
        return without_credentials(self.endpoint)


def collector(otlp: str | None) -> Collector:
    """Connect to a collector and export no span to it.

    Raises
    ------
    UserError
        The endpoint or a variable is invalid.
    """
    chosen = (
        endpoint_from_environment() if otlp is None else traces_endpoint(otlp or DEFAULT_ENDPOINT)
    )
    endpoint = chosen or traces_endpoint(DEFAULT_ENDPOINT)
    # The exporter would try for ten seconds.
    problem = _connect(endpoint)
    if not problem:
        from ..observe.exporters import otlp_sender

        sender = otlp_sender(endpoint)
        try:
            problem = sender([])
        finally:
            sender.shutdown()
    return Collector(endpoint, bool(chosen), problem)


def _connect(endpoint: str) -> str:
    """Connect to the port of an endpoint; return the reason of a failure."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https" and not is_loopback(endpoint):
        return ""  # there may be a proxy
    port = parts.port or (4317 if export_target(endpoint).protocol == "grpc" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), TIMEOUT):
            return ""
    except OSError as error:
        return error.strerror.lower() if error.strerror else str(error)


def page(endpoint: str) -> tuple[str, str, float | None]:
    """Look at the page of Jaeger: its address, a problem, and how much its clock is ahead."""
    address = trace_url(endpoint, "x").rpartition("/trace/")[0]
    own_machine = is_loopback(address)
    opener = build_opener(ProxyHandler({})) if own_machine else build_opener()
    started = time.time()
    try:
        with opener.open(Request(address, method="HEAD"), timeout=TIMEOUT) as answer:
            date = answer.headers.get("Date")
    except HTTPError as error:
        error.close()
        return address, f"{error.code} {error.reason}", None
    except (URLError, OSError) as error:
        return address, str(getattr(error, "reason", error)), None
    middle = (started + time.time()) / 2
    return address, "", parsedate_to_datetime(date).timestamp() - middle if date else None
