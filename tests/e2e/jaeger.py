"""A Jaeger for tests: its process, its query API, and the traces that it returns."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("OTLP_GRPC", "OTLP_HTTP", "QUERY", "QUERY_GRPC", "HEALTH")
TIMEOUT = 60.0  # seconds; a start takes about one on an idle machine


@dataclass
class Jaeger:
    """The addresses of a Jaeger: its UI and API, and OTLP over HTTP."""

    url: str
    otlp: str

    def get(self, path: str) -> Any:
        """Return the answer of the API, or None for status 404."""
        return self._request(urllib.request.Request(self.url + path))

    def post(self, path: str, document: Any) -> Any:
        """Return the answer of the API to a JSON document."""
        body = json.dumps(document).encode()
        headers = {"Content-Type": "application/json"}
        return self._request(urllib.request.Request(self.url + path, body, headers))

    def trace(self, trace_id: str) -> Trace | None:
        """Return a trace as the UI receives it, or None if Jaeger has none of it."""
        answer = self.get(f"/api/traces/{trace_id}")
        return Trace(answer["data"][0]) if answer and answer["data"] else None

    def uploaded(self, file: Path) -> Trace:
        """Return the trace that the upload tab of the UI shows for a file: it merges the lines."""
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        merged = [entry for line in lines for entry in line["resourceSpans"]]
        answer = self.post("/api/transform", {"resourceSpans": merged})
        assert len(answer["data"]) == 1
        return Trace(answer["data"][0])

    @staticmethod
    def _request(request: urllib.request.Request) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise


class OwnJaeger(Jaeger):
    """A Jaeger process with the shipped configuration, free ports and its own Badger.

    With `in_memory` it keeps every copy of a span that is sent twice.
    """

    def __init__(self, program: str, folder: Path, *, in_memory: bool = False) -> None:
        ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        super().__init__(
            f"http://127.0.0.1:{ports['QUERY']}", f"http://127.0.0.1:{ports['OTLP_HTTP']}"
        )
        self._health = f"http://127.0.0.1:{ports['HEALTH']}/status"
        self._log = folder / "jaeger.log"
        config = ROOT / "otel/jaeger.yaml"
        if in_memory:
            document = yaml.safe_load(config.read_text(encoding="utf-8"))
            storage = document["extensions"]["jaeger_storage"]
            storage["backends"] = {"traces": {"memory": {"max_traces": 1000}}}
            config = folder / "memory.yaml"
            config.write_text(yaml.safe_dump(document), encoding="utf-8")
        self._command = [program, "--config", str(config)]
        self._environment = {
            **os.environ,
            **{f"JAEGER_{name}_PORT": str(port) for name, port in ports.items()},
            "JAEGER_BADGER_DIR": str(folder / "badger"),
            "JAEGER_UI_CONFIG": str(ROOT / "otel/jaeger-ui.json"),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it is healthy."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log
            )
        for _ in until(TIMEOUT):
            if self._process.poll() is not None:
                break
            if self._healthy():
                return
        log_end = self._log.read_text(encoding="utf-8", errors="replace")[-3000:]
        self.stop()
        raise RuntimeError(f"Jaeger did not start:\n{log_end}")

    def stop(self, *, kill: bool = False) -> None:
        """Terminate or kill the process, and wait for its end."""
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(TIMEOUT)
        self._process = None

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(self._health, timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


class Trace:
    """A trace as the API returns it to the UI."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.spans = [Span(span, document["processes"]) for span in document["spans"]]

    def named(self, name: str) -> list[Span]:
        """Return the spans of one name."""
        return [span for span in self.spans if span.name == name]

    @property
    def warnings(self) -> list[str]:
        """All warnings of Jaeger: duplicate ids, orphans, skewed clocks."""
        documents = [self.document, *(span.document for span in self.spans)]
        return [warning for document in documents for warning in document["warnings"] or ()]

    def plain(self) -> dict[str, Any]:
        """Return the contents by span id, without order and without Jaeger's own fields."""
        assert len({span.id for span in self.spans}) == len(self.spans)
        return {span.id: span.plain() for span in self.spans}


class Span:
    """A span as the API returns it to the UI."""

    def __init__(self, document: dict[str, Any], processes: dict[str, Any]) -> None:
        self.document = document
        self.id: str = document["spanID"]
        self.name: str = document["operationName"]
        self.parents = [reference["spanID"] for reference in document["references"]]
        self.attributes = _plain(document["tags"])
        self.events = [_plain(log["fields"]) for log in document["logs"]]
        process = processes[document["processID"]]
        self.resource = {"service.name": process["serviceName"], **_plain(process["tags"])}

    def plain(self) -> dict[str, Any]:
        """Return the contents of the span."""
        times = {key: self.document[key] for key in ("startTime", "duration")}
        logs = [
            {"timestamp": log["timestamp"], **_plain(log["fields"])}
            for log in self.document["logs"]
        ]
        identity = {"name": self.name, "parents": self.parents, "resource": self.resource}
        return {**identity, **times, "attributes": self.attributes, "events": logs}


def until(seconds: float, pause: float = 0.1) -> Iterator[None]:
    """Yield repeatedly until the time has passed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(pause)


def _plain(tags: list[dict[str, Any]]) -> dict[str, Any]:
    values = {tag["key"]: tag["value"] for tag in tags}
    assert len(values) == len(tags), "a duplicate attribute"
    return values


def _free_ports(count: int) -> list[int]:
    """Return unused ports; they are taken at the same time, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
