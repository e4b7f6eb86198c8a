"""Measure the cost of the journal, the trace and the other records of a run.

    python benchmarks/overhead.py [--quick] [--shape HxW] [--rgb] [--repeats N] [--workers N]
                                  [--folder DIR] [--json FILE]

The calibration runs with all observers (journal, table of running jobs, stacks, trace to a file and
to a receiver, live snapshots) and with none, alternately in one process with warm workers; the
overhead is the median of the ratios. The second measurement is the processor time of each part for
one pair, without workers. The third is the effect on the loop of a collector that is absent, never
answers, or comes and goes. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness import Load, TileSet, load_line, median_ratio, size, write_set
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from speed import DENSE, LIGHT, ready

import zemosaic.pipeline.calibrate
from zemosaic import Settings, calibrate
from zemosaic.observe import otlp_json
from zemosaic.observe.exporters import Tracing
from zemosaic.observe.telemetry import Telemetry
from zemosaic.photometry.simulate import Scene
from zemosaic.runtime.events import JobEnded, RunStarted
from zemosaic.runtime.inflight import Inflight
from zemosaic.runtime.journal import Journal
from zemosaic.runtime.observers import FanOut, Observer
from zemosaic.runtime.pool import Pool
from zemosaic.runtime.process_pool import ProcessPool
from zemosaic.runtime.scheduler import Job, run
from zemosaic.runtime.worker import TaskResult, run_task

PAIRS = 5_000  # pairs for the cost of the parts
COLLECTOR_PAIRS = 20_000  # pairs for the effect of a collector, which receives a batch a second
BATCH = 32  # pairs that a worker receives at once
FLAP = 0.7  # seconds for which a flapping collector answers, is absent and does not answer


class _Handler(BaseHTTPRequestHandler):
    """Accepts every request."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Print nothing."""


def _answer(port: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def receiver(serve: Callable[[Any], None] = _answer) -> Iterator[str]:
    """Start a receiver in a process of its own; yield its URL."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()


class LastPair(Observer):
    """Keeps the end of the last pair, to repeat it."""

    last: JobEnded

    def job_ended(self, event: JobEnded) -> None:
        """Keep the event."""
        self.last = event


def off(tiles: TileSet, settings: Settings, pool: Pool) -> tuple[float, LastPair]:
    """Return the seconds of the calibration without observers and table, and its last pair.

    It has a run folder too, with the thumbnails for the report, which are not part of the cost.
    """
    last_pair, original = LastPair(), zemosaic.pipeline.calibrate._make_inflight
    zemosaic.pipeline.calibrate._make_inflight = lambda *_: None
    try:
        with tempfile.TemporaryDirectory(dir=tiles.folder) as name:
            start = time.perf_counter()
            calibrate(tiles.files, settings, pool, [last_pair], folder=name)
            return time.perf_counter() - start, last_pair
    finally:
        zemosaic.pipeline.calibrate._make_inflight = original


@contextmanager
def mute(port: int = 0) -> Iterator[str]:
    """Yield the URL of a collector that accepts and never answers."""
    with socket.create_server(("127.0.0.1", port)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _flap(port: Any) -> None:
    number = 0
    while True:
        server = ThreadingHTTPServer(("127.0.0.1", number), _Handler)
        if not number:
            number = server.server_port
            port.send(number)
        threading.Timer(FLAP, server.shutdown).start()
        server.serve_forever(0.05)
        server.server_close()
        time.sleep(FLAP)
        with mute(number):
            time.sleep(FLAP)


def time_reports(port: Any, pair: JobEnded, url: str) -> None:
    """Send the wall time that the loop takes per pair with all observers, in seconds.

    It includes the waits for the GIL, which the threads that send spans also need.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracing, journal = Tracing(folder / "trace.jsonl", url), Journal(folder, {})
        tracing.on_delivered = lambda numbers: journal.write({"kind": "delivered"})
        telemetry = Telemetry(tracing.tracer, tracing.show_open_spans())
        telemetry.run_started(RunStarted(run_id="r", time_ns=time.time_ns()))
        start = time.perf_counter()
        report_pairs(pair, COLLECTOR_PAIRS, [journal, telemetry], Inflight(folder, 1, 10.0))
        port.send((time.perf_counter() - start) / COLLECTOR_PAIRS)
        zemosaic.pipeline.calibrate.stacks.close()
        tracing.close(timeout=0.1)
        journal.close()


def collectors(pair: JobEnded, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of the loop per pair, in every round, for each kind of collector."""
    spawn = multiprocessing.get_context("spawn")
    runs: dict[str, list[float]] = {}
    with receiver() as live, mute() as deaf, receiver(_flap) as flapping:
        kinds = {
            "is not configured": "", "answers": live, "is absent": "http://127.0.0.1:9",
            "accepts and never answers": deaf, "flaps": flapping,
        }  # fmt: skip
        for repetition in range(repeats):
            # The order is reversed in every round.
            for kind, url in [*kinds.items()][:: 1 if repetition % 2 else -1]:
                # In a process of its own: threads that are still sending would disturb the next.
                ours, theirs = spawn.Pipe()
                process = spawn.Process(target=time_reports, args=(theirs, pair, url))
                process.start()
                runs.setdefault(kind, []).append(ours.recv())
                process.join()
            times = ", ".join(f"{kind} {runs[kind][-1] * 1e6:.0f} µs" for kind in runs)
            print(f"  round {repetition}: {times}", file=sys.stderr, flush=True)
    return runs


def median_error(values: Sequence[float]) -> float:
    """Return the standard error of the median of normally distributed values."""
    return float(1.2533 * statistics.pstdev(values) / len(values) ** 0.5)


def say_collectors(runs: dict[str, list[float]], seconds: float) -> None:
    """Print the extra cost of a pair compared with two kinds of collector.

    Parameters
    ----------
    runs : dict
        Seconds per pair for each kind of collector.
    seconds : float
        Time of a pair in a whole run.
    """

    def compared(times: list[float], other: str) -> str:
        extra = [100 * (a - b) / seconds for a, b in zip(times, runs[other], strict=True)]
        return f"{statistics.median(extra):+.2f} ± {median_error(extra):.2f} %"

    print(
        "\n| a collector that | µs to report a pair | compared with one that answers, of the time "
        "of a pair | compared with none |\n|---|---|---|---|"
    )
    for kind, times in runs.items():
        print(
            f"| {kind} | {statistics.median(times) * 1e6:.0f} "
            f"| {compared(times, 'answers')} | {compared(times, 'is not configured')} |"
        )


def on(tiles: TileSet, settings: Settings, pool: Pool, url: str) -> tuple[float, int]:
    """Return the seconds of the calibration with all observers, and the incomplete outputs."""
    with tempfile.TemporaryDirectory(dir=tiles.folder) as name:
        folder = Path(name)
        start = time.perf_counter()
        tracing = Tracing(folder / "trace.jsonl", url)
        journal = Journal(folder, {})
        tracing.on_delivered = lambda numbers: journal.write({"kind": "delivered"})
        observers = [journal, Telemetry(tracing.tracer, tracing.show_open_spans())]
        calibrate(tiles.files, settings, pool, observers, folder=folder)
        incomplete = tracing.close()
        seconds = time.perf_counter() - start
        journal.close()
        return seconds, len(incomplete)


def in_turns(tiles: TileSet, workers: int, repeats: int) -> dict[str, Any]:
    """Run both alternately; the first round, which reads the files from disk, does not count."""
    settings = Settings(neighbours=0, workers=workers)
    pool = ProcessPool(workers)
    for future in [pool.submit(ready, (0.5,)) for _ in range(workers)]:
        future.result()
    without, everything, incomplete = [], [], 0
    gc.freeze()  # as the command line does
    try:
        with receiver() as url:
            for repetition in range(repeats + 1):
                # The order is reversed in every round.
                for mode in ("off", "on") if repetition % 2 else ("on", "off"):
                    if mode == "off":
                        seconds, last_pair = off(tiles, settings, pool)
                        without.append(seconds)
                    else:
                        seconds, missing = on(tiles, settings, pool, url)
                        everything.append(seconds)
                        incomplete += missing
                times = f"off {without[-1]:.2f} s, on {everything[-1]:.2f} s"
                print(f"  round {repetition}: {times}", file=sys.stderr, flush=True)
    finally:
        gc.unfreeze()
        pool.close()
    ratios = [upper / lower for upper, lower in zip(everything[1:], without[1:], strict=True)]
    return {
        "pairs": last_pair.last.total,
        "off_seconds": without[1:],
        "on_seconds": everything[1:],
        "ratio": median_ratio(everything[1:], without[1:]),
        "ratio_error": median_error(ratios),
        "incomplete_outputs": incomplete,
        "pair": last_pair.last,
    }


class _ImmediatePool(Pool):
    """Runs jobs at their submission, so that only the work of the parent is timed."""

    kind, workers, window, max_batch = "here", 1, 1, BATCH

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Run the job."""
        future: Future[TaskResult] = Future()
        future.set_result(run_task(function, args))
        return future


def _nothing() -> None:
    """A job without duration."""


def report_pairs(
    pair: JobEnded, pairs: int, observers: Sequence[Observer], table: Inflight | None = None
) -> None:
    """Run the loop on jobs without duration, each of which is reported like `pair`."""
    attributes = dict(pair.attributes)
    jobs = [Job(k, _nothing, (), attributes, "key") for k in range(1, pairs + 1)]
    run(jobs, pairs, _ImmediatePool(), FanOut(observers), stage="pairs", inflight=table,
        summarize=lambda _: ("measured", attributes), serialize=lambda _: pair.result)  # fmt: skip


def parts(pair: JobEnded) -> dict[str, float]:
    """Return the processor time of each part for a pair, in microseconds."""

    def cost(observers: list[Observer], table: Inflight | None = None) -> float:
        return min(single_cost(observers, table) for _ in range(3))

    def single_cost(observers: list[Observer], table: Inflight | None) -> float:
        start = time.process_time()
        report_pairs(pair, PAIRS, observers, table)
        return (time.process_time() - start) / PAIRS * 1e6

    def telemetry(tracer: Any) -> Telemetry:
        observer = Telemetry(tracer)
        observer.run_started(RunStarted(run_id="r", time_ns=time.time_ns()))
        return observer

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    zemosaic.pipeline.calibrate.stacks.use_alarm()  # as a worker does
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loop = cost([])
        costs = {"the loop itself": loop}
        journal = Journal(folder, {})
        costs["journal"] = cost([journal]) - loop
        journal.close()
        # The parts of worker and parent, because both run here.
        table = Inflight(folder, 1, 10.0)
        costs["table and stacks"] = cost([], table) - loop
        zemosaic.pipeline.calibrate.stacks.close()
        costs["spans, without an SDK"] = cost([telemetry(None)]) - loop
        host = provider.get_tracer("bench")
        costs["spans, with the SDK of a host application"] = cost([telemetry(host)]) - loop
        tracing = Tracing(folder / "trace.jsonl")
        spans: list[Any] = []
        tracing._queues, queues = [SimpleNamespace(put=spans.append)], tracing._queues  # no threads
        costs["spans, with the command line"] = cost([telemetry(tracing.tracer)]) - loop
        tracing._queues = queues
        tracing.close()
        spans = spans[-PAIRS:]
        for part, function in (
            ("writing them to the file", otlp_json.encode),
            ("encoding them for OTLP", lambda s: encode_spans(s).SerializePartialToString()),
        ):
            start = time.process_time()
            for first in range(0, len(spans), 512):
                function(spans[first : first + 512])
            costs[part] = (time.process_time() - start) / PAIRS * 1e6
    return costs


def main() -> None:
    """Print tables in markdown; write all figures as JSON on request."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="40 small tiles instead of 200")
    parser.add_argument(
        "--shape", type=size, default=(1080, 1920), metavar="HxW", help="shape of the 200 tiles"
    )
    parser.add_argument("--rgb", action="store_true", help="tiles of three colours")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="folder of the simulated tiles")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        few = options.quick
        shape = LIGHT if few else options.shape
        scene = Scene(tiles=40 if few else 200, shape=shape, overlap=DENSE, rgb=options.rgb)
        load = Load()
        tiles = write_set(scene, folder)
        result = in_turns(tiles, options.workers, options.repeats)
        pair = result.pop("pair")
        cost, told_of = parts(pair), collectors(pair, options.repeats)
    told = load.report()
    print(
        f"\n{result['pairs']} pairs: everything off {statistics.median(result['off_seconds']):.2f} "
        f"s, everything on {statistics.median(result['on_seconds']):.2f} s, median of the ratios "
        f"{result['ratio']:.3f} ± {result['ratio_error']:.3f}.\n\n"
        "| part | µs of processor a pair |\n|---|---|"
    )
    for name, microseconds in cost.items():
        print(f"| {name} | {microseconds:.1f} |")
    say_collectors(told_of, statistics.median(result["on_seconds"]) / result["pairs"])
    print(f"\n{load_line(told)}")
    if options.json:
        told_all = {**result, "collectors": told_of, "microseconds_a_pair": cost, "machine": told}
        options.json.write_text(json.dumps(told_all, indent=1))


if __name__ == "__main__":
    main()
