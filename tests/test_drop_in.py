"""The contract with ZeMosaic: messages, callbacks, and the numbers that come back."""

from __future__ import annotations

import logging
import random
import re
from typing import Any

import numpy as np
import pytest

from tests.helpers.fakes import FakeClock, ManualPool, without_slot
from zemosaic.photometry.simulate import Scene, simulate
from zemosaic.runtime.thread_pool import ThreadPool
from zemosaic.zemosaic_utils import compute_intertile_affine_calibration

SCENE = Scene(tiles=9, shape=(128, 160), electrons=0, stars=4e-3, seeing=0, overlap=0.35)


@pytest.fixture(scope="module")
def tiles() -> list[tuple[np.ndarray, Any]]:
    return [(tile.data, tile.wcs) for tile in simulate(SCENE)]


class Window:
    """What ZeMosaic's window hears."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> None:
        self.calls.append(args)

    def progress(self, kind: str) -> list[tuple[int, int]]:
        return [call[1:] for call in self.calls if call[0] == kind]

    def lines(self) -> list[str]:
        return [call[0] for call in self.calls if len(call) == 3 and call[1] is None]


class ShuffledPool(ManualPool):
    """Ends jobs in an order drawn by lot; those in `bad` raise."""

    def __init__(self, seed: int, bad: tuple[int, ...] = ()) -> None:
        super().__init__(workers=4)
        self.rng, self.bad, self.pairs = random.Random(seed), bad, 0

    def submit(self, function: Any, args: tuple[Any, ...]) -> Any:
        function, args = without_slot(function, args)
        if function.__name__ == "measure":
            self.pairs += 1
            if self.pairs in self.bad:
                return super().submit(_broken, (self.pairs,))
        return super().submit(function, args)

    def end_one(self, now: float) -> None:
        if self.flying:  # tiles given as arrays are looked at without this pool
            self.end(self.rng.choice(list(self.flying)))


def _broken(index: int) -> None:
    raise OSError(f"pair {index} was lost")


def calibrate(tiles: Any, **options: Any) -> tuple[dict[int, tuple[float, float]], Window]:
    window = Window()
    options.setdefault("cpu_workers", 2)
    found = compute_intertile_affine_calibration(
        tiles, None, None, progress_callback=window, **options
    )
    return found, window


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_progress_rises_by_one_to_the_total(tiles: Any, seed: int) -> None:
    """With ends in random order and failures among them: 1, 2, ... total, and every fifth."""
    pool = ShuffledPool(seed, bad=(2, 9))
    found, window = calibrate(tiles, pool=pool, clock=FakeClock(pool.end_one))
    pairs = window.progress("phase5_intertile_pairs")
    total = pairs[0][1]
    assert total > 10
    assert pairs == [(k, total) for k in range(1, total + 1)]
    assert window.progress("phase5_intertile") == [(k, total) for k in range(5, total + 1, 5)]
    assert set(found) == set(range(9))


def test_a_failed_future_is_told_and_the_loop_goes_on(tiles: Any) -> None:
    """ "Pair future failed idx=…: …" at ERROR, prefixed, by logger and by callback."""
    records: list[logging.LogRecord] = []
    logger = logging.Logger("zemosaic-test")
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    pool = ShuffledPool(1, bad=(4,))
    _, window = calibrate(tiles, pool=pool, clock=FakeClock(pool.end_one), logger=logger)
    line = "[Intertile] Pair future failed idx=4: OSError: pair 4 was lost"
    assert (line, None, "ERROR") in window.calls
    assert [r.levelname for r in records if r.getMessage() == line] == ["ERROR"]
    assert all(line.startswith("[Intertile] ") for line in window.lines())


def test_the_heartbeat_has_the_agreed_text_and_rate(tiles: Any) -> None:
    """None while pairs end; one after 10 s of silence; at most one per 10 s; five indices."""
    pool, clock = ManualPool(workers=2), FakeClock()
    stalled_at: list[float] = []

    def work(now: float) -> None:
        if not pool.flying:  # tiles given as arrays are looked at without this pool
            return
        waiting = [k for k, (_, f, _a) in pool.flying.items() if f.__name__ == "measure"]
        if not waiting or (not stalled_at and min(waiting) < done_before_stall):
            clock.now += 4.0  # slower than a tick, quicker than a heartbeat
            pool.end(min(pool.flying))
            return
        if not stalled_at:
            stalled_at.append(now)
        if now >= stalled_at[0] + 25:
            for index in list(pool.flying):
                pool.end(index)

    done_before_stall = 9 + 6  # the tiles, and five pairs
    clock.on_wait = work
    _, window = calibrate(tiles, pool=pool, clock=clock)
    beats = [line for line in window.lines() if "Heartbeat" in line]
    assert len(beats) == 2
    total = window.progress("phase5_intertile_pairs")[0][1]
    pattern = re.escape(f"[Intertile] Heartbeat: done=5/{total} pending={total - 5} ")
    pattern += r"last_completed_idx=5 sample_pending_idx=\[6, 7, 8, 9, 10\]"
    assert re.fullmatch(pattern, beats[0]), beats[0]
    assert [call[2] for call in window.calls if call[0] == beats[0]] == ["WARNING"] * 2


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_sequence_and_parallel_agree_to_the_bit(tiles: Any, pool: str) -> None:
    """The same numbers, whatever runs the pairs and in whatever order they end."""
    alone, _ = calibrate(tiles, pool="serial")
    together, _ = calibrate(tiles, pool=pool)
    shuffler = ShuffledPool(5)
    shuffled, _ = calibrate(tiles, pool=shuffler, clock=FakeClock(shuffler.end_one))
    assert alone == together == shuffled


def test_the_truth_comes_back(tiles: Any) -> None:
    """Gains to 1e-3 and levels to 1 ADU at the sky, up to one factor and one level."""
    found, _ = calibrate(tiles)
    truth = list(simulate(SCENE))
    gain = np.array([found[k][0] for k in range(9)])
    offset = np.array([found[k][1] for k in range(9)])
    ratio = gain / np.array([tile.gain[0] for tile in truth])
    assert np.abs(ratio / ratio.mean() - 1).max() < 1e-3
    level = (
        gain * 1000
        + offset
        - ratio.mean() * np.array([tile.gain[0] * 1000 + tile.offset[0] for tile in truth])
    )
    assert np.ptp(level) < 1.0


def test_the_list_and_its_arrays_are_left_alone(tiles: Any) -> None:
    """Neither the caller's list nor its pixels are written to."""
    given = list(tiles)
    before = [data.copy() for data, _ in given]
    calibrate(given)
    assert len(given) == len(before)
    assert all(np.array_equal(a, b) for (a, _), b in zip(given, before, strict=True))


def test_a_broken_entry_keeps_its_key(tiles: Any) -> None:
    """An entry that is no tile is left out under its own index; the others keep theirs."""
    found, window = calibrate([*tiles[:3], ("no array", None), *tiles[3:]])
    good, _ = calibrate(tiles)
    assert set(found) == {0, 1, 2, *range(4, 10)}
    assert [found[k] for k in (0, 1, 2, 4)] == [good[k] for k in (0, 1, 2, 3)]
    assert any("tile 3" in line for line in window.lines())


def test_a_callback_that_raises_changes_nothing(tiles: Any) -> None:
    """A window that is gone is told of every pair all the same, and the numbers stay."""
    calls = []

    def gone(*args: Any) -> None:
        calls.append(args)
        raise RuntimeError("wrapped C/C++ object has been deleted")

    good, window = calibrate(tiles)
    found = compute_intertile_affine_calibration(
        tiles, None, None, progress_callback=gone, cpu_workers=2
    )
    assert found == good
    assert len(calls) == len(window.calls)


def test_masks_are_coverages(tiles: Any) -> None:
    """1 is good and 0 is bad: ruined pixels that the mask leaves out change nothing much."""
    ruined = []
    for data, wcs in tiles:
        broken, mask = data.copy(), np.ones(data.shape, dtype=np.float32)
        broken[:, :12], mask[:, :12] = 9e5, 0.0
        ruined.append((broken, wcs, mask))
    good, _ = calibrate(tiles)
    found, _ = calibrate(ruined)
    gains = np.array([[good[k][0], found[k][0]] for k in range(9)])
    assert np.abs(gains[:, 1] / gains[:, 0] - 1).max() < 2e-3


def test_a_heavy_tile_is_the_anchor(tiles: Any) -> None:
    """With weights the heaviest tile keeps gain 1 and offset 0; a wrong number is told."""
    found, _ = calibrate(tiles, tile_weights=[1, 1, 1, 1, 50, 1, 1, 1, 1])
    assert found[4] == (1.0, 0.0)
    unweighted, window = calibrate(tiles, tile_weights=[1, 2])
    assert unweighted == calibrate(tiles)[0]
    assert any("2 tile weights for 9 tiles" in line for line in window.lines())


def test_colour_tiles_give_one_pair_each(tiles: Any) -> None:
    """Three equal planes, first or last, give what the one plane gives."""
    good, _ = calibrate(tiles)
    for axis in (0, 2):
        colour = [(np.stack([data] * 3, axis=axis), wcs) for data, wcs in tiles]
        found, _ = calibrate(colour)
        assert np.allclose([found[k] for k in range(9)], [good[k] for k in range(9)], atol=1e-2)


@pytest.mark.parametrize("given", [None, [], "one"])
def test_nothing_to_match_gives_nothing_and_says_so(tiles: Any, given: Any) -> None:
    """Fewer than two tiles: an empty dict, and a line that says why."""
    found, window = calibrate(tiles[:1] if given == "one" else given)
    assert found == {}
    assert any("give at least two" in line for line in window.lines())


def test_what_zemosaic_passes_is_taken(tiles: Any) -> None:
    """Every argument of today's callers, by position and by name, known or not."""
    threads = ThreadPool(2)
    found = compute_intertile_affine_calibration(
        tiles, None, (100, 100), 512, 0.05, (30, 70), 2.5, False, None, None, None, 2, 8,
        offset_only_v1=False, gain_clip=(0.9, 1.1), force_safe_mode=True, pool=threads,
    )  # fmt: skip
    threads.close()
    assert found == calibrate(tiles)[0]
