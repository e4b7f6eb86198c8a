"""Measure the cost of the journal, the trace and the other records of a run.

    python benchmarks/overhead.py [--quick] [--shape HxW] [--rgb] [--repeats N] [--workers N]
                                  [--folder DIR] [--json FILE]

Whole calibrations with no observers, with all of them but a collector, and with a collector as well
run in turns in one process with warm workers. Other programs only ever slow a run down, so the
fastest run of each kind counts. The second table is the processor time of each part for one pair,
without workers; the third the effect on the loop of a collector that is absent or never answers.
See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness import Load, TileSet, cpu_seconds, load_line, median_ratio, size, write_set
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from speed import DENSE, LIGHT, ready

import zemosaic.pipeline.calibrate
from zemosaic import Settings, calibrate
from zemosaic.observe import otlp_json
from zemosaic.observe.run_recorder import Telemetry
from zemosaic.observe.tracing import Tracing
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
NOTHING, FILES, ALL = "nothing", "all but a collector", "all"


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
def receiver() -> Iterator[str]:
    """Start a receiver in a process of its own; yield its URL."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_answer, args=(theirs,))
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()


@contextmanager
def mute() -> Iterator[str]:
    """Yield the URL of a collector that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class LastPair(Observer):
    """Keeps the end of the last pair, to repeat it."""

    last: JobEnded

    def job_ended(self, event: JobEnded) -> None:
        """Keep the event."""
        self.last = event


@contextmanager
def records(folder: Path, url: str) -> Iterator[list[Observer]]:
    """Yield the observers of the command line, and wait for their output at the end."""
    tracing = Tracing(folder / "trace.jsonl", url, other_signals=True)
    journal = Journal(folder, {})
    tracing.on_delivered = lambda numbers: journal.write({"kind": "delivered"})
    telemetry = Telemetry(tracing.tracer, tracing.show_open_spans(), signals=tracing.signals)
    yield [journal, telemetry]
    if lost := tracing.close():
        raise RuntimeError(f"the figures mean nothing: {lost}")
    journal.close()


def timed(kind: str, tiles: TileSet, settings: Settings, pool: Pool, url: str) -> dict[str, Any]:
    """Return the wall time of a calibration, its processor time, and its last pair.

    All kinds have a run folder, with the thumbnails for the report.
    """
    last_pair, original = LastPair(), zemosaic.pipeline.calibrate._make_inflight
    if kind == NOTHING:
        zemosaic.pipeline.calibrate._make_inflight = lambda *_: None
    try:
        with tempfile.TemporaryDirectory(dir=tiles.folder) as name:
            folder = Path(name)
            start, spent = time.perf_counter(), cpu_seconds()
            observed = records(folder, url if kind == ALL else "")
            with nullcontext([]) if kind == NOTHING else observed as observers:
                calibrate(tiles.files, settings, pool, [last_pair, *observers], folder=folder)
            seconds = time.perf_counter() - start
            return {"wall": seconds, "cpu": cpu_seconds() - spent, "pair": last_pair.last}
    finally:
        zemosaic.pipeline.calibrate._make_inflight = original


def in_turns(tiles: TileSet, workers: int, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Run all kinds in turns; the first round, which reads the files from disk, does not count."""
    settings = Settings(neighbours=0, workers=workers)
    pool = ProcessPool(workers)
    for future in [pool.submit(ready, (0.5,)) for _ in range(workers)]:
        future.result()
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in (NOTHING, FILES, ALL)}
    gc.freeze()  # as the command line does
    try:
        with receiver() as url:
            for repetition in range(repeats + 1):
                # The order is reversed in every round.
                for kind in [*runs][:: 1 if repetition % 2 else -1]:
                    runs[kind].append(timed(kind, tiles, settings, pool, url))
                times = ", ".join(f"{kind} {runs[kind][-1]['wall']:.2f} s" for kind in runs)
                print(f"  round {repetition}: {times}", file=sys.stderr, flush=True)
    finally:
        gc.unfreeze()
        pool.close()
    return {kind: measured[1:] for kind, measured in runs.items()}


def compare(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Return the wall and processor time of each kind, also as multiples of those of nothing."""
    figures: dict[str, dict[str, float]] = {kind: {} for kind in runs}
    for measure in ("wall", "cpu"):
        seconds = {kind: [one[measure] for one in measured] for kind, measured in runs.items()}
        for kind, row in figures.items():
            row[measure] = min(seconds[kind])
            row[f"{measure}_ratio"] = min(seconds[kind]) / min(seconds[NOTHING])
            row[f"{measure}_median_ratio"] = median_ratio(seconds[kind], seconds[NOTHING])
    return figures


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
        return fastest(lambda: report_pairs(pair, PAIRS, observers, table))

    def fastest(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(3):
            start = time.process_time()
            work()
            seconds.append(time.process_time() - start)
        return min(seconds) / PAIRS * 1e6

    def telemetry(tracer: Any, signals: Any = None) -> Telemetry:
        observer = Telemetry(tracer, signals=signals)
        observer.run_started(RunStarted(run_id="r", time_ns=time.time_ns()))
        return observer

    def in_batches(function: Callable[[Sequence[Any]], object]) -> float:
        batches = [spans[first : first + 512] for first in range(0, PAIRS, 512)]
        return fastest(lambda: [function(batch) for batch in batches])

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
        costs["spans, with the command line"] = (
            cost([telemetry(tracing.tracer, tracing.signals)]) - loop
        )
        tracing._queues = queues
        tracing.close()
        costs["writing them to the file"] = in_batches(otlp_json.encode)
        costs["encoding them for OTLP"] = in_batches(
            lambda batch: encode_spans(batch).SerializePartialToString()
        )
    return costs


def _time_reports(port: Any, pair: JobEnded, url: str) -> None:
    """Send the wall time that the loop takes per pair with all observers, in microseconds.

    It includes the waits for the GIL, which the threads that send spans also need.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracing, journal = Tracing(folder / "trace.jsonl", url), Journal(folder, {})
        telemetry = Telemetry(tracing.tracer, tracing.show_open_spans(), signals=tracing.signals)
        telemetry.run_started(RunStarted(run_id="r", time_ns=time.time_ns()))
        start = time.perf_counter()
        report_pairs(pair, COLLECTOR_PAIRS, [journal, telemetry], Inflight(folder, 1, 10.0))
        port.send((time.perf_counter() - start) / COLLECTOR_PAIRS * 1e6)
        zemosaic.pipeline.calibrate.stacks.close()
        tracing.close(timeout=0.1)
        journal.close()


def collectors(pair: JobEnded, repeats: int) -> dict[str, float]:
    """Return the least time of the loop for a pair, in microseconds, for each kind of collector."""
    spawn = multiprocessing.get_context("spawn")
    times: dict[str, list[float]] = {}
    with receiver() as live, mute() as deaf:
        kinds = {
            "is not configured": "", "answers": live, "is absent": "http://127.0.0.1:9",
            "accepts and never answers": deaf,
        }  # fmt: skip
        for _ in range(repeats):
            for kind, url in kinds.items():
                # In a process of its own: threads that are still sending would disturb the next.
                ours, theirs = spawn.Pipe()
                process = spawn.Process(target=_time_reports, args=(theirs, pair, url))
                process.start()
                times.setdefault(kind, []).append(ours.recv())
                process.join()
    return {kind: min(measured) for kind, measured in times.items()}


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
        few, shape = options.quick, LIGHT if options.quick else options.shape
        scene = Scene(tiles=40 if few else 200, shape=shape, overlap=DENSE, rgb=options.rgb)
        tiles = write_set(scene, options.folder or Path(temporary))
        load = Load()
        runs = in_turns(tiles, options.workers, options.repeats)
        machine, pair = load.report(), runs[ALL][-1]["pair"]
        whole, cost = compare(runs), parts(pair)
        reports = collectors(pair, options.repeats)
    print(f"\n{pair.total} pairs; the fastest of {options.repeats} runs of each kind.\n")
    print("| records | s | × nothing | median | s of processor | × nothing | median |")
    print("|---|---|---|---|---|---|---|")
    for kind, row in whole.items():
        print(f"| {kind} | {' | '.join(f'{figure:.3f}' for figure in row.values())} |")
    print("\n| part | µs of processor a pair |\n|---|---|")
    for name, microseconds in cost.items():
        print(f"| {name} | {microseconds:.1f} |")
    print("\n| a collector that | µs to report a pair |\n|---|---|")
    for kind, microseconds in reports.items():
        print(f"| {kind} | {microseconds:.0f} |")
    print(f"\n{load_line(machine)}")
    if options.json:
        figures = {"whole": whole, "parts": cost, "collectors": reports, "machine": machine}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
