"""ZeMosaic's own code: its function with our watch in it, and our function in place of its own.

`ZEMOSAIC_SOURCE` names a folder with its modules; it needs opencv-python-headless and psutil.
``python -m tests.e2e.test_zemosaic`` prints the figures and the transcript of a stall.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reproject.mosaicking import find_optimal_celestial_wcs

from tests.helpers.zemosaic_app import queue_callback
from zemosaic.photometry.simulate import Scene, simulate
from zemosaic.zemosaic_utils import compute_intertile_affine_calibration

SOURCE = os.environ.get("ZEMOSAIC_SOURCE", "")
pytestmark = pytest.mark.skipif(not SOURCE, reason="ZEMOSAIC_SOURCE names no copy of ZeMosaic")
SCENE = Scene(tiles=16, shape=(480, 640), rotation=3.0)
#: The patch: four lines of its function, replaced by these.
PATCH = (
    (
        "with ThreadPoolExecutor(max_workers=effective_workers) as executor:",
        "from zemosaic import watch\n"
        "                with ThreadPoolExecutor(effective_workers) as executor, watch(\n"
        '                    "phase5_intertile", total_pairs, progress_callback, logger,\n'
        '                    prefix="[Intertile] ", heartbeat=HEARTBEAT,\n'
        "                ) as watcher:",
    ),
    ("while pending:", "for future in watcher.as_completed(future_map):"),
    ("done, pending = wait(pending, timeout=2.0, return_when=FIRST_COMPLETED)", "done = [future]"),
)


def load(patched: bool, heartbeat: float = 10.0) -> ModuleType:
    """Import its module, with or without the patch."""
    path = Path(SOURCE, "zemosaic_utils.py")
    text = path.read_text(encoding="utf-8")
    start = text.index("def compute_intertile_affine_calibration")
    head, body = text[:start], text[start:]
    for old, new in PATCH if patched else ():
        assert old in body
        body = body.replace(old, new.replace("HEARTBEAT", str(heartbeat)), 1)
    spec = importlib.util.spec_from_file_location("zemosaic_utils_of_zemosaic", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, SOURCE)
    try:
        exec(compile(head + body, str(path), "exec"), module.__dict__)
    finally:
        sys.path.remove(SOURCE)
    return module


class Queue:
    """What the queue of its worker receives, with the time of each message."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.messages: list[tuple[float, tuple[Any, ...]]] = []

    def put(self, message: tuple[Any, ...]) -> None:
        self.messages.append((time.monotonic() - self.start, message))

    def lines(self) -> list[str]:
        return [f"{at:6.1f} {m[2]:5} {m[0]}" for at, m in self.messages if m[0] != "STAGE_PROGRESS"]


def calibrate(function: Callable[..., Any], tiles: Any) -> tuple[dict[int, Any], Queue, float]:
    """Call a function as its worker does; return corrections, messages and seconds."""
    queue = Queue()
    started = time.perf_counter()
    entries = [(tile.data.copy(), tile.wcs) for tile in tiles]
    wcs, shape = find_optimal_celestial_wcs([(tile.data.shape, tile.wcs) for tile in tiles])
    corrections = function(
        entries, wcs, shape, preview_size=512, min_overlap_fraction=0.05,
        progress_callback=queue_callback(queue), cpu_workers=2, max_neighbors_per_tile=8,
        gain_offset_v2=True, gain_clip=(0.5, 2.0),
    )  # fmt: skip
    return corrections, queue, time.perf_counter() - started


def in_order(module: ModuleType) -> ModuleType:
    """Make its pairs end one after the other, because its results depend on their order."""
    from concurrent.futures import Future

    class OneAfterTheOther:
        def __init__(self, workers: int = 0, max_workers: int = 0) -> None:
            self.count = 0

        def __enter__(self) -> OneAfterTheOther:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def submit(self, function: Any, *args: Any) -> Future[Any]:
            future: Any = Future()
            self.count = future.number = self.count + 1
            future.set_result(function(*args))
            return future

    module.ThreadPoolExecutor = OneAfterTheOther  # type: ignore[attr-defined]

    def wait(pending: Any, **_: Any) -> tuple[list[Any], set[Any]]:
        return sorted(pending, key=lambda future: future.number), set()

    module.wait = wait  # type: ignore[attr-defined]
    return module


def test_the_patch_changes_no_result() -> None:
    """Under 15 lines in place of 3, and the same bits for pairs that end in the same order."""
    assert sum(new.count("\n") + 1 for _, new in PATCH) + len(PATCH) < 15
    tiles = list(simulate(SCENE))
    own = in_order(load(patched=False)).compute_intertile_affine_calibration
    patched = in_order(load(patched=True)).compute_intertile_affine_calibration
    expected, _, _ = calibrate(own, tiles)
    corrections, queue, _ = calibrate(patched, tiles)
    assert corrections == expected
    assert len(corrections) == SCENE.tiles
    phase = [m[2] for _, m in queue.messages if m[:2] == ("STAGE_PROGRESS", "phase5_intertile")]
    assert phase == sorted(phase)


def test_a_stall_reaches_the_queue() -> None:
    """With the patch, its queue shows which pair is stuck, and in which line."""
    queue = stalled(load(patched=True, heartbeat=0.5), 8.0)
    lines = "\n".join(queue.lines())
    assert "WARN  [Intertile] Heartbeat: done=" in lines
    assert "in robust_affine_fit" in lines or "hold" in lines


def stalled(module: ModuleType, seconds: float) -> Queue:
    """Run its function while the fit of one pair hangs for some time."""
    fit, once = module.robust_affine_fit, threading.Event()

    def hold(*args: Any, **options: Any) -> Any:
        if not once.is_set():
            once.set()
            time.sleep(seconds)
        return fit(*args, **options)

    module.robust_affine_fit = hold  # type: ignore[attr-defined]
    return calibrate(module.compute_intertile_affine_calibration, list(simulate(SCENE)))[1]


def gain_error(corrections: dict[int, Any], tiles: Any) -> float:
    """Return the scatter of the gains about the truth, up to one factor."""
    got = np.array([corrections.get(k, (1.0, 0.0))[0] for k in range(len(tiles))])
    ratio = got / np.array([tile.gain[0] for tile in tiles])
    return float(np.std(ratio / ratio.mean()))


def test_our_function_is_more_accurate_than_its_own() -> None:
    """By a factor of five at least, on tiles that it can match."""
    tiles = list(simulate(SCENE))
    own, _, _ = calibrate(load(patched=False).compute_intertile_affine_calibration, tiles)
    ours, _, _ = calibrate(compute_intertile_affine_calibration, tiles)
    assert gain_error(ours, tiles) < gain_error(own, tiles) / 5


def main() -> None:
    """Print the figures."""
    tiles = list(simulate(SCENE))
    for name, function in (
        ("its own", load(patched=False).compute_intertile_affine_calibration),
        ("patched", load(patched=True).compute_intertile_affine_calibration),
        ("ours", compute_intertile_affine_calibration),
    ):
        corrections, _, seconds = calibrate(function, tiles)
        print(f"{name:8} {seconds:5.1f} s, gains off by {gain_error(corrections, tiles):.2%}")
    for name, patched in (("its own", False), ("patched", True)):
        print(f"\nA stall of 25 s, {name}:")
        print(*stalled(load(patched), 25.0).lines(), sep="\n")


if __name__ == "__main__":
    main()
