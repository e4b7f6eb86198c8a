"""What it costs to know at any time what a run does.

    python benchmarks/overhead.py [--quick] [--shape HxW] [--rgb] [--repeats N] [--workers N]
                                  [--folder DIR] [--json FILE]

The phase with everything on (journal, table of the jobs under way, stacks, trace to a file and to
a receiver that takes it, live snapshots) and with everything off, in turns in one process with
warm workers; the overhead is the median of the ratios over the turns. Then what each part costs
for one pair, in microseconds of processor, without workers; and what a collector does to the loop
that is absent, mute or comes and goes. See benchmarks/README.md.
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

from harness import Load, TileSet, median_ratio, say_load, size, write_set
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from speed import DENSE, LIGHT, ready

import zemosaic.pipeline.calibrate
from zemosaic import Settings, calibrate
from zemosaic.observe import otlp_json, otlp_proto
from zemosaic.observe.exporters import Tracing, _one_by_one
from zemosaic.observe.telemetry import Telemetry
from zemosaic.photometry.simulate import Scene
from zemosaic.runtime.events import FanOut, JobEnded, Observer, RunStarted
from zemosaic.runtime.inflight import Inflight
from zemosaic.runtime.journal import Journal
from zemosaic.runtime.pool import Pool
from zemosaic.runtime.process_pool import ProcessPool
from zemosaic.runtime.scheduler import Job, run
from zemosaic.runtime.worker import TaskResult, run_task

PAIRS = 5_000  # for the cost of the parts
TOLD = 20_000  # and for that of a collector, which takes a batch a second
TOGETHER = 32  # as many pairs as a worker is sent at once
FLAP = 0.7  # seconds that a collector answers, is away and is mute


class _Takes(BaseHTTPRequestHandler):
    """Reads what it is sent and says that all is well."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _answer(port: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Takes)
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def receiver(serve: Callable[[Any], None] = _answer) -> Iterator[str]:
    """A receiver in a process of its own; its URL."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()


class Kept(Observer):
    """Keeps the end of the last pair, to tell it again."""

    last: JobEnded

    def job_ended(self, event: JobEnded) -> None:
        """Keep it."""
        self.last = event


def off(tiles: TileSet, settings: Settings, pool: Pool) -> tuple[float, Kept]:
    """Seconds of the phase alone, without even the table; a pair that it measured.

    It has a run folder as well, where the thumbnails for the report are kept: no part of telling.
    """
    kept, made = Kept(), zemosaic.pipeline.calibrate._make_inflight
    zemosaic.pipeline.calibrate._make_inflight = lambda *_: None
    try:
        with tempfile.TemporaryDirectory(dir=tiles.folder) as name:
            start = time.perf_counter()
            calibrate(tiles.files, settings, pool, [kept], folder=name)
            return time.perf_counter() - start, kept
    finally:
        zemosaic.pipeline.calibrate._make_inflight = made


@contextmanager
def mute(port: int = 0) -> Iterator[str]:
    """A collector that accepts and never answers."""
    with socket.create_server(("127.0.0.1", port)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _flap(port: Any) -> None:
    number = 0
    while True:
        server = ThreadingHTTPServer(("127.0.0.1", number), _Takes)
        if not number:
            number = server.server_port
            port.send(number)
        threading.Timer(FLAP, server.shutdown).start()
        server.serve_forever(0.05)
        server.server_close()
        time.sleep(FLAP)
        with mute(number):
            time.sleep(FLAP)


def loop(port: Any, pair: JobEnded, url: str) -> None:
    """Send what telling of a pair takes with everything on, in seconds by the clock.

    Nothing is measured meanwhile, so this is the loop and whatever keeps it: the threads that
    send spans work at the same time, and need Python's lock as well.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracing, journal = Tracing(folder / "trace.jsonl", url), Journal(folder, {})
        tracing.on_delivered = lambda numbers: journal.write({"kind": "delivered"})
        telemetry = Telemetry(tracing.tracer, tracing.live())
        telemetry.run_started(RunStarted(run_id="r", time_ns=time.time_ns()))
        start = time.perf_counter()
        tell(pair, TOLD, [journal, telemetry], Inflight(folder, 1, 10.0))
        port.send((time.perf_counter() - start) / TOLD)
        zemosaic.pipeline.calibrate.stacks.close()
        tracing.close(timeout=0.1)
        journal.close()


def collectors(pair: JobEnded, repeats: int) -> dict[str, list[float]]:
    """Seconds that telling of a pair takes, turn by turn, by what the collector does."""
    spawn = multiprocessing.get_context("spawn")
    runs: dict[str, list[float]] = {}
    with receiver() as live, mute() as deaf, receiver(_flap) as flapping:
        kinds = {
            "is not asked for": "", "answers": live, "is absent": "http://127.0.0.1:9",
            "accepts and never answers": deaf, "flaps": flapping,
        }  # fmt: skip
        for turn in range(repeats):
            # Whoever goes first in a turn goes last in the next.
            for kind, url in [*kinds.items()][:: 1 if turn % 2 else -1]:
                # In a process of its own: threads that still try would be there in the next run.
                ours, theirs = spawn.Pipe()
                process = spawn.Process(target=loop, args=(theirs, pair, url))
                process.start()
                runs.setdefault(kind, []).append(ours.recv())
                process.join()
            said = ", ".join(f"{kind} {took[-1] * 1e6:.0f} µs" for kind, took in runs.items())
            print(f"  turn {turn}: {said}", file=sys.stderr, flush=True)
    return runs


def of_median(values: Sequence[float]) -> float:
    """The error of their median, if they are normal."""
    return float(1.2533 * statistics.pstdev(values) / len(values) ** 0.5)


def say_collectors(runs: dict[str, list[float]], seconds: float) -> None:
    """Print what a pair costs more, beside two other kinds; a pair takes `seconds`."""

    def beside(took: list[float], other: str) -> str:
        more = [100 * (a - b) / seconds for a, b in zip(took, runs[other], strict=True)]
        return f"{statistics.median(more):+.2f} ± {of_median(more):.2f} %"

    print(
        "\n| a collector that | µs to tell of a pair | beside one that answers, in parts of the "
        "time of a pair | beside none |\n|---|---|---|---|"
    )
    for kind, took in runs.items():
        print(
            f"| {kind} | {statistics.median(took) * 1e6:.0f} "
            f"| {beside(took, 'answers')} | {beside(took, 'is not asked for')} |"
        )


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
    gc.freeze()  # as the command does
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
        gc.unfreeze()
        pool.close()
    return {
        "pairs": kept.last.total,
        "off_seconds": without[1:],
        "on_seconds": everything[1:],
        "ratio": median_ratio(everything[1:], without[1:]),
        "ratio_error": of_median([a / b for a, b in zip(everything[1:], without[1:], strict=True)]),
        "outlets_with_losses": lost,
        "pair": kept.last,
    }


class _Here(Pool):
    """Does jobs when they are submitted, so that nothing but the parent's own work is timed."""

    kind, workers, window, max_batch = "here", 1, 1, TOGETHER

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[TaskResult]:
        """Do it."""
        future: Future[TaskResult] = Future()
        future.set_result(run_task(function, args))
        return future


def _nothing() -> None:
    """A job of no length."""


def tell(
    pair: JobEnded, pairs: int, observers: Sequence[Observer], table: Inflight | None = None
) -> None:
    """The loop with so many jobs of no length, each told of as this pair."""
    known = dict(pair.attributes)
    jobs = [Job(k, _nothing, (), known, "key") for k in range(1, pairs + 1)]
    run(jobs, pairs, _Here(), FanOut(observers), stage="pairs", inflight=table,
        summarize=lambda _: ("measured", known), serialize=lambda _: pair.result)  # fmt: skip


def parts(pair: JobEnded) -> dict[str, float]:
    """Microseconds of processor for a pair, part by part."""

    def each(observers: list[Observer], table: Inflight | None = None) -> float:
        return min(once(observers, table) for _ in range(3))

    def once(observers: list[Observer], table: Inflight | None) -> float:
        start = time.process_time()
        tell(pair, PAIRS, observers, table)
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
        alone = each([])
        found = {"the loop itself": alone}
        journal = Journal(folder, {})
        found["journal"] = each([journal]) - alone
        journal.close()
        # The worker's part and the parent's, since both are done here.
        table = Inflight(folder, 1, 10.0)
        found["table and stacks"] = each([], table) - alone
        zemosaic.pipeline.calibrate.stacks.close()
        found["spans, without an SDK"] = each([telemetry(None)]) - alone
        host = provider.get_tracer("bench")
        found["spans, with the SDK of a host application"] = each([telemetry(host)]) - alone
        tracing = Tracing(folder / "trace.jsonl")
        made: list[Any] = []
        tracing.tracer._outlets = [SimpleNamespace(put=made.append)]  # nothing but that
        found["spans, by the command"] = each([telemetry(tracing.tracer)]) - alone
        tracing.close()
        for what, function in (
            ("writing them to the file", otlp_json.encode),
            ("encoding them for OTLP", otlp_proto.encode),
            (
                "the same with the SDK",
                lambda s: encode_spans(_one_by_one(s)).SerializePartialToString(),
            ),
        ):
            start, batch = time.process_time(), 512 // TOGETHER
            for first in range(0, len(made), batch):
                function(made[first : first + batch])
            found[what] = (time.process_time() - start) / PAIRS * 1e6
    return found


def main() -> None:
    """Print tables in markdown; write all figures as JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="40 small tiles instead of 200")
    parser.add_argument(
        "--shape", type=size, default=(1080, 1920), metavar="HxW", help="shape of the 200 tiles"
    )
    parser.add_argument("--rgb", action="store_true", help="tiles of three colours")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where simulated tiles are kept")
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
    told = load.told()
    print(
        f"\n{result['pairs']} pairs: everything off {statistics.median(result['off_seconds']):.2f} "
        f"s, everything on {statistics.median(result['on_seconds']):.2f} s, median of the ratios "
        f"{result['ratio']:.3f} ± {result['ratio_error']:.3f}.\n\n"
        "| part | µs of processor a pair |\n|---|---|"
    )
    for name, microseconds in cost.items():
        print(f"| {name} | {microseconds:.1f} |")
    say_collectors(told_of, statistics.median(result["on_seconds"]) / result["pairs"])
    print(f"\n{say_load(told)}")
    if options.json:
        told_all = {**result, "collectors": told_of, "microseconds_a_pair": cost, "machine": told}
        options.json.write_text(json.dumps(told_all, indent=1))


if __name__ == "__main__":
    main()
