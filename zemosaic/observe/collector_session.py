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
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from .endpoint import is_loopback, without_credentials

PROTOBUF = "application/x-protobuf"
_REJECTED = "rejected"
_TRY_AGAIN = (429, 502, 503, 504)
_KNOWN: dict[type, str] = {
    socket.gaierror: "no such host",
    ConnectionRefusedError: "connection refused",
    requests.exceptions.ProxyError: "the proxy does not reach it",
}


class RefusedError(requests.RequestException):
    """The collector has not taken the data; the message gives the reason."""


class CollectorSession(requests.Session):
    """A session that raises if the collector has not taken all data of a request.

    Parameters
    ----------
    response_type : type
        Message of OTLP that answers the requests.

    Attributes
    ----------
    reason : str
        Reason of the last failure; empty after a success.
    status : int
        Status of the last answer; 0 if there was none.
    """

    def __init__(self, response_type: Any) -> None:
        super().__init__()
        self._response_type = response_type
        self.reason = ""
        self.status = 0

    @property
    def refused(self) -> bool:
        """Whether the last answer shows that no later request will succeed."""
        if not self.reason or not self.status or self.status in _TRY_AGAIN:
            return False
        return not self.reason.startswith(_REJECTED)  # others of the same signal were taken

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
        self.reason = self._refusal(answer)
        if self.reason:
            raise RefusedError(self.reason)
        return answer

    def _refusal(self, answer: requests.Response) -> str:
        """Return why an answer is no success; empty if it is one."""
        if answer.status_code >= 300:
            return _describe_status(answer)
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not answer.content and kind != "text/html":
            return ""
        if kind not in (PROTOBUF, "application/protobuf", "application/json", ""):
            return f"answered {kind}, as no collector does"
        try:
            if kind == "application/json":
                response = json_format.ParseDict(
                    {**answer.json()}, self._response_type(), ignore_unknown_fields=True
                )
            else:
                response = self._response_type.FromString(answer.content)
        except (DecodeError, json_format.ParseError, ValueError, TypeError):
            return "answered as no collector does"
        return _rejection(response.partial_success)


def _describe_status(answer: requests.Response) -> str:
    if answer.status_code >= 400:
        return f"{answer.status_code} {answer.reason}"
    return f"redirected to {without_credentials(answer.headers.get('Location', 'another place'))}"


def _rejection(partial_success: Any) -> str:
    fields = {field.name: value for field, value in partial_success.ListFields()}
    message = " ".join(fields.pop("error_message", "").split())
    count = sum(fields.values())  # the name of the field depends on the signal
    if not count:
        return ""
    return f"{_REJECTED} {count} of {{sent}}" + (f": {message}" if message else "")


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
    """Yield an exception and its causes, outermost first."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            yield cause
            nested = [getattr(a, "reason", a) for a in cause.args]
            waiting += [cause.__cause__, getattr(cause, "reason", None), *nested, cause.__context__]
