"""What it costs to know at any time what a run does.

    python benchmarks/overhead.py [--quick] [--repeats N] [--workers N] [--folder DIR] [--json FILE]

The phase with everything on (journal, table of the jobs under way, stacks, trace to a file and to
a receiver that takes it, live snapshots) and with everything off, in turns in one process with
warm workers; the overhead is the median of the ratios over the turns. Then what each part costs
for one pair, in microseconds of processor, without workers. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness import Load, TileSet, median_ratio, say_load, write_set
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from speed import DENSE, LIGHT, ready

import zemosaic.phase
from zemosaic import Settings, calibrate
from zemosaic.observe.exporters import Tracing
from zemosaic.observe.otlp_json import encode
from zemosaic.observe.telemetry import Telemetry
from zemosaic.photometry.simulate import Scene
from zemosaic.runtime.events import FanOut, JobEnded, Observer, RunStarted, StageEnded
from zemosaic.runtime.inflight import Inflight
from zemosaic.runtime.journal import Journal
from zemosaic.runtime.pool import Pool, ProcessPool, Report, perform
from zemosaic.runtime.schedule import Job, run

PAIRS = 5_000  # for the cost of the parts


class _Takes(BaseHTTPRequestHandler):
    """Reads what it is sent and says that all is well."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _serve(port: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Takes)
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def receiver() -> Iterator[str]:
    """A receiver in a process of its own; its URL."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()


class Solved(Observer):
    """Notes when the last stage ended."""

    at = 0.0

    def stage_ended(self, event: StageEnded) -> None:
        """Note it."""
        self.at = time.perf_counter()


class Kept(Observer):
    """Keeps the end of the last pair, to tell it again."""

    last: JobEnded

    def job_ended(self, event: JobEnded) -> None:
        """Keep it."""
        self.last = event


def off(tiles: TileSet, settings: Settings, pool: Pool) -> tuple[float, Kept]:
    """Seconds of the phase alone, without even the table; a pair that it measured."""
    kept, made = Kept(), zemosaic.phase._inflight
    zemosaic.phase._inflight = lambda *_: None
    try:
        start = time.perf_counter()
        calibrate(tiles.files, settings, pool, [kept])
        return time.perf_counter() - start, kept
    finally:
        zemosaic.phase._inflight = made


@contextmanager
def mute() -> Iterator[str]:
    """A collector that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def loop(tiles: TileSet, settings: Settings, pool: Pool, url: str) -> float:
    """Seconds of the phase with everything on, without the wait for the collector at the end."""
    with tempfile.TemporaryDirectory(dir=tiles.folder) as name:
        folder = Path(name)
        tracing, journal = Tracing(folder / "trace.jsonl", url), Journal(folder, {})
        solved = Solved()
        observers = [journal, Telemetry(tracing.tracer, tracing.live()), solved]
        start = time.perf_counter()
        calibrate(tiles.files, settings, pool, observers, folder=folder)
        seconds = solved.at - start
        tracing.close(timeout=0.1)
        journal.close()
        return seconds


def collectors(tiles: TileSet, workers: int, repeats: int) -> dict[str, float]:
    """What a collector that is absent or mute does to the loop: ratios to one that answers."""
    settings = Settings(neighbours=0, workers=workers)
    pool = ProcessPool(workers)
    seconds: dict[str, list[float]] = {"live": [], "absent": [], "mute": []}
    try:
        with receiver() as live, mute() as deaf:
            for _ in range(repeats + 1):
                for kind, url in (("live", live), ("absent", "http://127.0.0.1:9"), ("mute", deaf)):
                    seconds[kind].append(loop(tiles, settings, pool, url))
    finally:
        pool.close()
    return {
        kind: median_ratio(seconds[kind][1:], seconds["live"][1:]) for kind in ("absent", "mute")
    }


def on(tiles: TileSet, settings: Settings, pool: Pool, url: str) -> tuple[float, int]:
    """Seconds of the phase with everything on, to the last span; spans that got lost."""
    with tempfile.TemporaryDirectory(dir=tiles.folder) as name:
        folder = Path(name)
        start = time.perf_counter()
        tracing = Tracing(folder / "trace.jsonl", url)
        journal = Journal(folder, {})
        tracing.on_delivered = lambda numbers: journal.write({"kind": "delivered"})
        observers = [journal, Telemetry(tracing.tracer, tracing.live())]
        calibrate(tiles.files, settings, pool, observers, folder=folder)
        lost = tracing.close()
        seconds = time.perf_counter() - start
        journal.close()
        return seconds, len(lost)


def in_turns(tiles: TileSet, workers: int, repeats: int) -> dict[str, Any]:
    """Both in turns; the first turn brings files into memory and does not count."""
    settings = Settings(neighbours=0, workers=workers)
    pool = ProcessPool(workers)
    for future in [pool.submit(ready, (0.5,)) for _ in range(workers)]:
        future.result()
    without, everything, lost = [], [], 0
    try:
        with receiver() as url:
            for turn in range(repeats + 1):
                # Whoever goes first in a turn goes second in the next.
                for which in ("off", "on") if turn % 2 else ("on", "off"):
                    if which == "off":
                        seconds, kept = off(tiles, settings, pool)
                        without.append(seconds)
                    else:
                        seconds, missing = on(tiles, settings, pool, url)
                        everything.append(seconds)
                        lost += missing
                said = f"off {without[-1]:.2f} s, on {everything[-1]:.2f} s"
                print(f"  turn {turn}: {said}", file=sys.stderr, flush=True)
    finally:
        pool.close()
    return {
        "pairs": kept.last.total,
        "off_seconds": without[1:],
        "on_seconds": everything[1:],
        "ratio": median_ratio(everything[1:], without[1:]),
        "outlets_with_losses": lost,
        "pair": kept.last,
    }


class _Here(Pool):
    """Does a job when it is submitted, so that nothing but the parent's own work is timed."""

    kind, workers, window = "here", 1, 1

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[Report]:
        """Do it."""
        future: Future[Report] = Future()
        future.set_result(perform(function, args))
        return future


def _nothing() -> None:
    """A job of no length."""


def parts(pair: JobEnded) -> dict[str, float]:
    """Microseconds of processor for a pair, part by part."""

    def each(observers: list[Observer], table: Inflight | None = None) -> float:
        return min(once(observers, table) for _ in range(3))

    def once(observers: list[Observer], table: Inflight | None) -> float:
        fan_out = FanOut(observers)
        known = dict(pair.attributes)
        jobs = [Job(k, _nothing, (), known, "key") for k in range(1, PAIRS + 1)]
        start = time.process_time()
        run(jobs, PAIRS, _Here(), fan_out, stage="pairs", inflight=table,
            describe=lambda _: ("measured", known), plain=lambda _: pair.result)  # fmt: skip
        return (time.process_time() - start) / PAIRS * 1e6

    def telemetry(tracer: Any) -> Telemetry:
        observer = Telemetry(tracer)
        observer.run_started(RunStarted(run_id="r", time_ns=time.time_ns()))
        return observer

    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = each([])
        found = {"the loop itself": alone}
        journal = Journal(folder, {})
        found["journal"] = each([journal]) - alone
        journal.close()
        # The worker's part and the parent's, since both are done here.
        table = Inflight(folder, 1, 10.0)
        found["table and stacks"] = each([], table) - alone
        zemosaic.phase.stacks.disarm()
        found["spans, without an SDK"] = each([telemetry(None)]) - alone
        found["spans, with one"] = each([telemetry(provider.get_tracer("bench"))]) - alone
        spans = memory.get_finished_spans()
        for what, function in (
            ("writing them to the file", encode),
            ("encoding them for OTLP", lambda s: encode_spans(s).SerializePartialToString()),
        ):
            start = time.process_time()
            for first in range(0, len(spans), 512):
                function(spans[first : first + 512])
            found[what] = (time.process_time() - start) / len(spans) * 1e6
    return found


def main() -> None:
    """Print tables in markdown; write all figures as JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="40 tiles instead of 200")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where simulated tiles are kept")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        scene = Scene(tiles=40 if options.quick else 200, shape=LIGHT, overlap=DENSE)
        load = Load()
        tiles = write_set(scene, folder)
        result = in_turns(tiles, options.workers, options.repeats)
        few = write_set(Scene(tiles=40, shape=LIGHT, overlap=DENSE), folder)
        deaf = collectors(few, options.workers, 2 * options.repeats)
        cost = parts(result.pop("pair"))
    told = load.told()
    print(
        f"\n{result['pairs']} pairs: everything off {statistics.median(result['off_seconds']):.2f} "
        f"s, everything on {statistics.median(result['on_seconds']):.2f} s, median of the ratios "
        f"{result['ratio']:.3f}.\n\n| part | µs of processor a pair |\n|---|---|"
    )
    for name, microseconds in cost.items():
        print(f"| {name} | {microseconds:.1f} |")
    print(
        f"\nThe loop on 40 tiles, against a collector that answers: {deaf['absent']:.3f} where it "
        f"is absent, {deaf['mute']:.3f} where it accepts and never answers.\n{say_load(told)}"
    )
    if options.json:
        told_all = {**result, "loop_ratio": deaf, "microseconds_a_pair": cost, "machine": told}
        options.json.write_text(json.dumps(told_all, indent=1))


if __name__ == "__main__":
    main()
