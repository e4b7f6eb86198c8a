"""The HTTP session of the exporters: a request succeeds only if the collector has taken all of it.

The exporters of the SDK take every status below 400 for success and do not read the answer.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from .endpoint import is_loopback, without_credentials

PROTOBUF = "application/x-protobuf"
_TRY_AGAIN = (429, 502, 503, 504)
_KNOWN: dict[type, str] = {
    socket.gaierror: "no such host",
    ConnectionRefusedError: "connection refused",
    requests.exceptions.ProxyError: "the proxy does not reach it",
}


class RefusedError(requests.RequestException):
    """The collector has not taken the data; the message gives the reason."""


class CollectorSession(requests.Session):
    """A session that raises where the collector has not taken all data of a request.

    Attributes
    ----------
    reason : str
        Reason of the last failure; empty after a success.
    status : int
        Status of the last answer; 0 if there was none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""
        self.status = 0

    @property
    def refused(self) -> bool:
        """Whether the last answer shows that no later request will succeed."""
        return bool(self.reason and self.status) and self.status not in _TRY_AGAIN

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send a request; a redirect, a web page or a partial success raises `RefusedError`."""
        self.status = 0
        if is_loopback(url):  # a proxy has another loopback
            options["proxies"] = {"no_proxy": urlsplit(url).hostname}
        try:
            answer = super().request(method, url, **{**options, "allow_redirects": False})
        except Exception as error:
            self.reason = _describe(error, options.get("timeout"))
            raise
        self.status = answer.status_code
        if answer.status_code in _TRY_AGAIN:  # the exporter does
            self.reason = f"{answer.status_code} {answer.reason}"
            return answer
        self.reason = _refusal(answer)
        if self.reason:
            raise RefusedError(self.reason)
        return answer


def _refusal(answer: requests.Response) -> str:
    """Return why an answer is no success; empty if it is one."""
    if answer.status_code >= 300:
        return _describe_status(answer)
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _json_refusal(answer)
    if not answer.content and kind != "text/html":
        return ""
    if kind not in (PROTOBUF, "application/protobuf", ""):
        return f"answered {kind}, as no collector does"
    try:
        # The responses for metrics and logs have the same fields.
        partial = ExportTraceServiceResponse.FromString(answer.content).partial_success
    except DecodeError:
        return "answered as no collector does"
    return _rejection(partial.rejected_spans, partial.error_message)


def _describe_status(answer: requests.Response) -> str:
    if answer.status_code >= 400:
        return f"{answer.status_code} {answer.reason}"
    return f"redirected to {without_credentials(answer.headers.get('Location', 'another place'))}"


def _json_refusal(answer: requests.Response) -> str:
    try:
        partial = (answer.json() if answer.content else {}).get("partialSuccess") or {}
        counts = [int(n) for name, n in partial.items() if name.startswith("rejected")]
        return _rejection(sum(counts), str(partial.get("errorMessage", "")))
    except (ValueError, AttributeError, TypeError):
        return "answered as no collector does"


def _rejection(count: int, message: str) -> str:
    if not count:
        return ""
    return f"rejected {count} of {{sent}}" + (f": {' '.join(message.split())}" if message else "")


def _describe(error: BaseException, timeout: Any) -> str:
    """Return the cause of a failed request in a few words."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"certificate verify failed: {cause.verify_message}"
        for kind, known in _KNOWN.items():
            if isinstance(cause, kind):
                return known
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer within {timeout:.3g} s"
    # The innermost error of the system says most.
    words = [c.strerror for c in causes if isinstance(c, OSError) and c.strerror]
    return without_credentials(" ".join((words or [str(causes[-1])])[-1].split()))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that caused it, outermost first."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            yield cause
            nested = [getattr(a, "reason", a) for a in cause.args]
            waiting += [cause.__cause__, getattr(cause, "reason", None), *nested, cause.__context__]
