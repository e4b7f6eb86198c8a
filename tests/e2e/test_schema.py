"""Runs of every kind against the registry: sent names are declared, declared names are sent."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.conftest import TIMEOUT, Run, intertile, simulated_tiles
from tests.e2e.faults import inject
from tests.e2e.jaeger import until
from tests.helpers.otlp_receiver import http_receiver, spans_of
from tests.helpers.semconv import ATTRIBUTES, SIGNALS, faults, seen

#: Attributes of open spans, which are in no file unless the run ends so, and of a resumed run.
OF_OPEN_RUNS = {
    "zemosaic.run.last_seen", "zemosaic.run.resumed_from", "zemosaic.oldest.index",
    "zemosaic.oldest.running_time", "zemosaic.oldest.running_stage",
}  # fmt: skip
#: Attributes of jobs on machines with another clock: `tests/faults/test_dask.py` has such a run.
OF_CLUSTERS = {"zemosaic.host.clock_offset"}

#: An application whose third future ends when the watch has reported it as slow.
APPLICATION = """
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import zemosaic
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from zemosaic.runtime.observers import Observer

slow = threading.Event()

class Reports(Observer):
    def slow_job(self, event):
        slow.set()

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(sys.argv[1])))
trace.set_tracer_provider(provider)
with ThreadPoolExecutor(2) as pool, zemosaic.watch(
    "phase5_intertile", heartbeat=0.2, observers=[Reports()]
) as watcher:
    jobs = {pool.submit(abs, -1): "good", pool.submit(abs): "bad"}
    list(watcher.as_completed({**jobs, pool.submit(slow.wait, 60): "slow"}))
"""


@pytest.fixture(scope="module")
def watched() -> list[Any]:
    """The spans of a loop under `zemosaic.watch`, from the provider of its application."""
    with http_receiver() as (url, received):
        subprocess.run(
            [sys.executable, "-c", APPLICATION, f"{url}/v1/traces"], check=True, timeout=TIMEOUT
        )
    return received.resource_spans


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in colour with every fault that does not end it."""
    folder = tmp_path_factory.mktemp("faulty")
    tiles = simulated_tiles(folder / "tiles", "--rgb", tiles=9, size="96x72", overlap=0.4)
    tiles[8].write_bytes(tiles[8].read_bytes()[:9000])
    (folder / "corrected" / tiles[5].name).mkdir(parents=True)  # in the place of a file
    faults = inject(
        folder / "site", tile_4="sleep", pair_0_1="raise", pair_1_2="crash", pair_3_4="hang",
        block_0_0="sleep",
    )  # fmt: skip
    return intertile(
        folder / "run", tiles, "--apply", folder / "corrected", "--heartbeat", 0.5,
        "--pair-timeout", 3, "--live", "marker", "--mosaic", folder / "m.fits", **faults,
    ).wait()  # fmt: skip


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Run]:
    """A run that was interrupted while a pair hung, and the run that resumes it."""
    folder = tmp_path_factory.mktemp("resumed")
    tiles = simulated_tiles(folder / "tiles", tiles=4, size="64x48", overlap=0.4)
    first = intertile(
        folder / "run", tiles, "--heartbeat", 0.5, **inject(folder / "site", pair_0_1="hang")
    )
    journal = folder / "run" / "journal.jsonl"
    for _ in until(TIMEOUT):
        if journal.exists() and '"JobRunning"' in journal.read_text(encoding="utf-8"):
            break
    first.process.send_signal(signal.SIGINT)
    interrupted = first.wait()
    assert interrupted.code == 130, interrupted.err
    spans = interrupted.resource_spans
    return spans, intertile(folder / "run", tiles, "--resume").wait()


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without a solution: no tile can be read."""
    folder = tmp_path_factory.mktemp("lost")
    tiles = simulated_tiles(folder / "tiles", tiles=2, size="32x32", overlap=0.4)
    for tile in tiles:
        tile.write_bytes(tile.read_bytes()[:100])
    return intertile(folder / "run", tiles).wait()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A successful run with some overlaps that are too small."""
    folder = tmp_path_factory.mktemp("plain")
    tiles = simulated_tiles(folder / "tiles", tiles=9, size="64x48", overlap=0.6)
    return intertile(folder / "run", tiles, "--neighbours", 0).wait()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot interrupt another process")
def test_the_names_of_a_resumed_run_are_declared(resumed: tuple[list[Any], Run]) -> None:
    """The phase of an interrupted run names the pair that hung, the next one has a link to it."""
    interrupted, run = resumed
    assert run.code == 0, run.err
    assert faults(interrupted) == faults(run.resource_spans) == set()
    phases = [s for s in (*spans_of(interrupted), *run.spans) if s.name == "phase5_intertile"]
    first, second = phases
    assert second.links[0].trace_id == first.trace_id
    assert second.links[0].span_id == first.span_id
    attributes = {
        a.declared for r in (interrupted, run.resource_spans) for _, v in seen(r) for a in v
    }
    assert attributes >= OF_OPEN_RUNS - {"zemosaic.run.last_seen"}


def test_every_sent_name_is_declared(
    faulty: Run, lost: Run, plain: Run, watched: list[Any]
) -> None:
    """Names and types are those of the registry, and no required attribute is missing."""
    assert faulty.code == 1, faulty.err
    assert lost.code == 2, lost.err
    assert plain.code == 0, plain.err
    for run in (faulty, lost, plain):
        assert faults(run.resource_spans) == set()
        (phase,) = [span for span in run.spans if span.name == "phase5_intertile"]
        keys = {attribute.key for attribute in phase.attributes}
        assert keys >= {f"zemosaic.{key}" for key in ("tiles.total", "pool.kind", "pool.workers")}
    # The resource of a library call is that of its application.
    assert {fault for fault in faults(watched) if "('entity', 'zemosaic')" not in fault} == set()


def test_every_declared_name_is_sent(
    faulty: Run, lost: Run, plain: Run, watched: list[Any]
) -> None:
    """Some run has each span, event and attribute of the registry."""
    signals, attributes = set(), set()
    for sent in (faulty.resource_spans, lost.resource_spans, plain.resource_spans, watched):
        for kind_and_name, values in seen(sent):
            signals.add(kind_and_name)
            attributes |= {attribute.declared for attribute in values}
    assert {key for key in SIGNALS if key[0] != "metric"} - signals == set()
    assert ATTRIBUTES.keys() - attributes == OF_OPEN_RUNS | OF_CLUSTERS
