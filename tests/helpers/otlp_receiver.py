"""An OTLP collector for tests: gRPC and HTTP on free loopback ports."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import grpc
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, TracesData

IDS = ("traceId", "spanId", "parentSpanId")


class Received:
    """The received requests, from any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.resource_spans: list[ResourceSpans] = []
        self.paths: list[str] = []
        self.compressed: list[bool] = []
        self.authorizations: list[str] = []

    def take(self, path: str, request: ExportTraceServiceRequest) -> None:
        """Store a request."""
        with self._lock:
            self.paths.append(path)
            self.resource_spans.extend(request.resource_spans)

    @property
    def spans(self) -> list[Span]:
        """All spans, in the order of arrival."""
        with self._lock:
            return spans_of(self.resource_spans)

    @property
    def resources(self) -> list[dict[str, Any]]:
        """The distinct resources, each as a mapping."""
        with self._lock:
            return resources_of(self.resource_spans)


class Answer(NamedTuple):
    """The answer of a receiver; with a status of 300 or more it keeps nothing."""

    status: int = 200
    content: bytes = ExportTraceServiceResponse().SerializeToString()
    kind: str = "application/x-protobuf"
    location: str = ""


ACCEPT, FORBID = Answer(), Answer(403)


def rejecting(count: int, message: str) -> Answer:
    """Return the answer of a collector that rejects some spans."""
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = count
    response.partial_success.error_message = message
    return Answer(content=response.SerializeToString())


@contextmanager
def http_receiver(
    *,
    refusing: bool = False,
    port: int = 0,
    answer: Answer | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[tuple[str, Received]]:
    """Serve ``POST /v1/traces``; yield the endpoint and the received requests.

    A refusing receiver answers 403, after which no client retries.
    """
    received, connections = Received(), []
    answer = answer or (FORBID if refusing else ACCEPT)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            compressed = self.headers.get("Content-Encoding") == "gzip"
            received.compressed.append(compressed)
            if compressed:
                body = gzip.decompress(body)
            if self.path.endswith(("/v1/metrics", "/v1/logs")):  # as Jaeger does
                self.send_error(404)
                return
            received.authorizations.append(self.headers.get("Authorization", ""))
            if answer.status < 300:
                received.take(self.path, ExportTraceServiceRequest.FromString(body))
            self.send_response(answer.status)
            if answer.kind:
                self.send_header("Content-Type", answer.kind)
            if answer.location:
                self.send_header("Location", answer.location)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """Keep standard error clean."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    # With the default interval of half a second, every test would end that much later.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        for connection in connections:  # a client would keep using an open one
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def grpc_receiver(*, refusing: bool = False) -> Iterator[tuple[str, Received]]:
    """Serve the gRPC trace service; yield the endpoint and the received requests.

    A refusing receiver answers PERMISSION_DENIED, after which no client retries.
    """
    received = Received()

    class Service(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(
            self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> ExportTraceServiceResponse:
            if refusing:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "go away")
            received.take("grpc", request)
            return ExportTraceServiceResponse()

    with ThreadPoolExecutor(2) as executor:
        server = grpc.server(executor)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Service(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"grpc://127.0.0.1:{port}", received
        finally:
            server.stop(0).wait()


@contextmanager
def mute_port(port: int = 0) -> Iterator[int]:
    """Yield a port that accepts every connection and never answers."""
    with socket.create_server(("127.0.0.1", port), backlog=64) as listener:
        # The kernel completes the handshake; no data are read.
        yield listener.getsockname()[1]


@contextmanager
def dead_port() -> Iterator[int]:
    """Yield a port that refuses every connection; it is reserved meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def spans_of(resource_spans: list[ResourceSpans]) -> list[Span]:
    """Return the spans of `ResourceSpans`."""
    return [s for resource in resource_spans for scope in resource.scope_spans for s in scope.spans]


def resources_of(resource_spans: list[ResourceSpans]) -> list[dict[str, Any]]:
    """Return the distinct resources of `ResourceSpans`, each as a mapping."""
    distinct: list[Resource] = []
    for entry in resource_spans:
        if entry.resource not in distinct:
            distinct.append(entry.resource)
    return [plain(resource.attributes) for resource in distinct]


def plain(attributes: Any) -> dict[str, Any]:
    """Return OTLP key-values as a mapping of plain values; a duplicate key is an error."""
    values: dict[str, Any] = {}
    for attribute in attributes:
        assert attribute.key not in values, attribute.key
        values[attribute.key] = _value(attribute.value)
    return values


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None, "an AnyValue without a value"
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)


def read_otlp_json(line: str) -> list[ResourceSpans]:
    """Parse a line of OTLP/JSON with the schema, independent of the library that wrote it.

    OTLP/JSON is protobuf's JSON mapping with hexadecimal ids. Unknown fields, wrong types and
    constants that are not JSON (NaN, Infinity) raise.
    """
    document = json.loads(line, parse_constant=_refuse)
    _ids_to_base64(document)
    return list(json_format.ParseDict(document, TracesData()).resource_spans)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _ids_to_base64(node: Any) -> None:
    if isinstance(node, list):
        for item in node:
            _ids_to_base64(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in IDS:
                raw = bytes.fromhex(value)
                assert len(raw) in (8, 16), f"{key} is {value!r}"
                node[key] = base64.b64encode(raw).decode()
            else:
                _ids_to_base64(value)
