"""The contract with ZeMosaic: log lines, callbacks and results."""

from __future__ import annotations

import json
import logging
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zemosaic
from tests.helpers.environment import remove_proxies
from tests.helpers.fakes import FakeClock, ManualPool, without_slot
from tests.helpers.otlp_receiver import http_receiver
from zemosaic.cli.resend import send_missing_spans
from zemosaic.drop_in.corrections import reduce_solution
from zemosaic.observe.autopsy import examine
from zemosaic.photometry.pairfit.measurement import PairMeasurement
from zemosaic.photometry.simulate import Scene, simulate
from zemosaic.runtime.thread_pool import ThreadPool
from zemosaic.zemosaic_utils import (
    compute_intertile_affine_calibration,
    get_last_intertile_diagnostics,
)

SCENE = Scene(tiles=9, shape=(128, 160), electrons=0, stars=4e-3, seeing=0, overlap=0.35)


@pytest.fixture(scope="module")
def tiles() -> list[tuple[np.ndarray, Any]]:
    return [(tile.data, tile.wcs) for tile in simulate(SCENE)]


class CallbackRecorder:
    """A progress callback that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> None:
        self.calls.append(args)

    def progress(self, kind: str) -> list[tuple[int, int]]:
        return [call[1:] for call in self.calls if call[0] == kind]

    def lines(self) -> list[str]:
        return [call[0] for call in self.calls if len(call) == 3 and call[1] is None]


class ShuffledPool(ManualPool):
    """Ends jobs in random order; the pairs in `failing` raise."""

    def __init__(self, seed: int, failing: tuple[int, ...] = ()) -> None:
        super().__init__(workers=4)
        self.rng, self.failing, self.pairs = random.Random(seed), failing, 0

    def submit(self, function: Any, args: tuple[Any, ...]) -> Any:
        function, args = without_slot(function, args)
        if function.__name__ == "measure":
            self.pairs += 1
            if self.pairs in self.failing:
                return super().submit(_fail, (self.pairs,))
        return super().submit(function, args)

    def end_one(self, now: float) -> None:
        if self.flying:  # tiles given as arrays are scanned without the pool
            self.end(self.rng.choice(list(self.flying)))


def _fail(index: int) -> None:
    raise OSError(f"pair {index} was lost")


def calibrate(
    tiles: Any, **options: Any
) -> tuple[dict[int, tuple[float, float]], CallbackRecorder]:
    callback = CallbackRecorder()
    options.setdefault("cpu_workers", 2)
    corrections = compute_intertile_affine_calibration(
        tiles, None, None, progress_callback=callback, **options
    )
    return corrections, callback


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_progress_increases_by_one_to_the_total(tiles: Any, seed: int) -> None:
    """If jobs end in random order and some fail: 1, 2, ... total, and a share that never falls."""
    pool = ShuffledPool(seed, failing=(2, 9))
    corrections, callback = calibrate(tiles, pool=pool, clock=FakeClock(pool.end_one))
    pairs = callback.progress("phase5_intertile_pairs")
    total = pairs[0][1]
    assert total > 10
    assert pairs == [(k, total) for k in range(1, total + 1)]
    phase = callback.progress("phase5_intertile")
    assert [done for done, _ in phase] == [*range(1, 10), *range(9 + 5, 9 + total + 1, 5)]
    shares = [done / of for done, of in phase]
    assert shares == sorted(shares)
    assert phase[-1] == (9 + total, 9 + total)
    assert set(corrections) == set(range(9))


def test_a_failed_pair_is_logged_and_the_run_continues(tiles: Any) -> None:
    """The logger and the callback get "Pair future failed idx=…: …" at ERROR, with the prefix."""
    records: list[logging.LogRecord] = []
    logger = logging.Logger("zemosaic-test")
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    pool = ShuffledPool(1, failing=(4,))
    _, callback = calibrate(tiles, pool=pool, clock=FakeClock(pool.end_one), logger=logger)
    line = "[Intertile] Pair future failed idx=4: OSError: pair 4 was lost"
    assert (line, None, "ERROR") in callback.calls
    assert [r.levelname for r in records if r.getMessage() == line] == ["ERROR"]
    assert all(line.startswith("[Intertile] ") for line in callback.lines())


def test_the_heartbeat_has_the_specified_text_and_rate(tiles: Any) -> None:
    """None while pairs end, then one per 10 s without an end, with five indices of pairs."""
    pool, clock = ManualPool(workers=2), FakeClock()
    stall_times: list[float] = []

    def end_jobs(now: float) -> None:
        if not pool.flying:  # tiles given as arrays are scanned without the pool
            return
        pairs = [k for k, (_, f, _a) in pool.flying.items() if f.__name__ == "measure"]
        if not pairs or (not stall_times and min(pairs) < done_before_stall):
            clock.now += 4.0  # longer than a tick, shorter than a heartbeat
            pool.end(min(pool.flying))
            return
        if not stall_times:
            stall_times.append(now)
        if now >= stall_times[0] + 25:
            for index in list(pool.flying):
                pool.end(index)

    done_before_stall = 9 + 6  # nine tiles and five pairs
    clock.on_wait = end_jobs
    _, callback = calibrate(tiles, pool=pool, clock=clock)
    beats = [line for line in callback.lines() if "Heartbeat" in line]
    assert len(beats) == 2
    total = callback.progress("phase5_intertile_pairs")[0][1]
    pattern = re.escape(f"[Intertile] Heartbeat: done=5/{total} pending={total - 5} ")
    pattern += r"last_completed_idx=5 sample_pending_idx=\[6, 7, 8, 9, 10\]"
    assert re.fullmatch(pattern, beats[0]), beats[0]
    assert [call[2] for call in callback.calls if call[0] == beats[0]] == ["WARN"] * 2


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_pools_give_bitwise_equal_results(tiles: Any, pool: str) -> None:
    """The results depend neither on the pool nor on the order in which pairs end."""
    serial, _ = calibrate(tiles, pool="serial")
    parallel, _ = calibrate(tiles, pool=pool)
    shuffled_pool = ShuffledPool(5)
    shuffled, _ = calibrate(tiles, pool=shuffled_pool, clock=FakeClock(shuffled_pool.end_one))
    assert serial == parallel == shuffled


def test_the_truth_is_recovered(tiles: Any) -> None:
    """Gains to 1e-3 and sky levels to 1 ADU, up to one factor and one level."""
    corrections, _ = calibrate(tiles)
    truth = list(simulate(SCENE))
    gain = np.array([corrections[k][0] for k in range(9)])
    offset = np.array([corrections[k][1] for k in range(9)])
    ratio = gain / np.array([tile.gain[0] for tile in truth])
    assert np.abs(ratio / ratio.mean() - 1).max() < 1e-3
    level = (
        gain * 1000
        + offset
        - ratio.mean() * np.array([tile.gain[0] * 1000 + tile.offset[0] for tile in truth])
    )
    assert np.ptp(level) < 1.0


def test_the_input_is_not_changed(tiles: Any) -> None:
    """Neither the list nor its arrays are changed."""
    entries = list(tiles)
    before = [data.copy() for data, _ in entries]
    calibrate(entries)
    assert len(entries) == len(before)
    assert all(np.array_equal(a, b) for (a, _), b in zip(entries, before, strict=True))


def test_an_invalid_entry_does_not_shift_the_keys(tiles: Any) -> None:
    """An entry that is not a tile has no result; the others keep their indices."""
    corrections, callback = calibrate([*tiles[:3], ("no array", None), *tiles[3:]])
    expected, _ = calibrate(tiles)
    assert set(corrections) == {0, 1, 2, *range(4, 10)}
    shifted = [corrections[k] for k in (0, 1, 2, 4)]
    assert np.allclose(shifted, [expected[k] for k in (0, 1, 2, 3)], rtol=1e-9)
    assert any("tile 3" in line for line in callback.lines())


def test_a_callback_that_raises_changes_nothing(tiles: Any) -> None:
    """It is still called for every event, and the results are the same."""
    calls = []

    def deleted_window(*args: Any) -> None:
        calls.append(args)
        raise RuntimeError("wrapped C/C++ object has been deleted")

    expected, callback = calibrate(tiles)
    corrections = compute_intertile_affine_calibration(
        tiles, None, None, progress_callback=deleted_window, cpu_workers=2
    )
    assert corrections == expected
    assert len(calls) == len(callback.calls)


def test_masks_are_coverages(tiles: Any) -> None:
    """1 is good and 0 is bad: masked pixels change gains by less than 2e-3."""
    masked = []
    for data, wcs in tiles:
        changed, mask = data.copy(), np.ones(data.shape, dtype=np.float32)
        changed[:, :12], mask[:, :12] = 9e5, 0.0
        masked.append((changed, wcs, mask))
    expected, _ = calibrate(tiles)
    corrections, _ = calibrate(masked)
    gains = np.array([[expected[k][0], corrections[k][0]] for k in range(9)])
    assert np.abs(gains[:, 1] / gains[:, 0] - 1).max() < 2e-3


def test_the_heaviest_tile_is_the_anchor(tiles: Any) -> None:
    """It keeps gain 1 and offset 0; a wrong number of weights is logged and ignored."""
    corrections, _ = calibrate(tiles, tile_weights=[1, 1, 1, 1, 50, 1, 1, 1, 1])
    assert corrections[4] == (1.0, 0.0)
    unweighted, callback = calibrate(tiles, tile_weights=[1, 2])
    assert unweighted == calibrate(tiles)[0]
    assert any("2 tile weights for 9 tiles" in line for line in callback.lines())


def test_a_colour_tile_has_one_correction(tiles: Any) -> None:
    """Three equal channels, first or last, give the correction of a single one."""
    expected, _ = calibrate(tiles)
    for axis in (0, 2):
        colour = [(np.stack([data] * 3, axis=axis), wcs) for data, wcs in tiles]
        corrections, _ = calibrate(colour)
        assert np.allclose(
            [corrections[k] for k in range(9)], [expected[k] for k in range(9)], atol=1e-2
        )


@pytest.mark.parametrize("entries", [None, [], "one"])
def test_fewer_than_two_tiles_give_no_corrections(tiles: Any, entries: Any) -> None:
    """The result is empty, and a log line has the reason."""
    corrections, callback = calibrate(tiles[:1] if entries == "one" else entries)
    assert corrections == {}
    assert any("give at least two" in line for line in callback.lines())


def test_all_arguments_of_zemosaic_are_accepted(tiles: Any) -> None:
    """By position and by name, including names that have no effect."""
    threads = ThreadPool(2)
    corrections = compute_intertile_affine_calibration(
        tiles, None, (100, 100), 512, 0.05, (30, 70), 2.5, False, None, None, None, 2, 8,
        offset_only_v1=False, gain_clip=(0.9, 1.1), force_safe_mode=True, pool=threads,
    )  # fmt: skip
    threads.close()
    assert corrections == calibrate(tiles)[0]


def test_equal_weights_have_no_anchor(tiles: Any) -> None:
    """They give the corrections without weights, also if the first tile is empty."""
    assert calibrate(tiles, tile_weights=[2.0] * 9)[0] == calibrate(tiles)[0]
    empty = [(np.full_like(tiles[0][0], np.nan), tiles[0][1]), *tiles[1:]]
    corrections, _ = calibrate(empty, tile_weights=[1.0] * 9)
    assert set(corrections) == set(range(1, 9))


def test_the_next_usable_tile_is_the_anchor(tiles: Any) -> None:
    """If the heaviest is empty; weights that are no numbers above 0 count as 1."""
    empty = [(np.full_like(tiles[0][0], np.nan), tiles[0][1]), *tiles[1:]]
    weights = [9.0, 0.0, float("nan"), 5.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    corrections, callback = calibrate(empty, tile_weights=weights)
    assert corrections[3] == (1.0, 0.0)
    assert set(corrections) == set(range(1, 9))
    assert any("anchor: tile 3" in line for line in callback.lines())


def test_channels_are_returned_on_request(tiles: Any) -> None:
    """Each has its own gain and offset; an alpha plane is a mask, not a colour."""
    colour = [
        (np.stack([data, 2 * data + 100, data, np.ones_like(data)], axis=-1), wcs)
        for data, wcs in tiles
    ]
    corrections, _ = calibrate(colour, return_channels=True)
    expected, _ = calibrate(tiles)
    for index, (gains, offsets) in corrections.items():
        assert len(gains) == len(offsets) == 3
        assert gains[1] == pytest.approx(expected[index][0], abs=1e-3)
        assert gains[0] == gains[2] == pytest.approx(expected[index][0], abs=1e-6)


def test_an_alpha_plane_is_a_mask(tiles: Any) -> None:
    """Where it is 0 the colours count as missing, and it is no part of the mean."""
    alpha = np.ones(tiles[0][0].shape, dtype=np.float32)
    alpha[:, :12] = 0
    rgba, masked = [], []
    for data, wcs in tiles:
        damaged = np.where(alpha > 0, data, 9e5)
        rgba.append((np.stack([damaged] * 3 + [alpha], axis=-1), wcs))
        masked.append((data, wcs, alpha))
    corrections, expected = calibrate(rgba)[0], calibrate(masked)[0]
    values = [[corrections[k] for k in range(9)], [expected[k] for k in range(9)]]
    assert np.allclose(*values, atol=1e-2)


def test_arguments_are_coerced(tiles: Any) -> None:
    """Strings, None, NaN and numbers out of range, as in a configuration file."""
    expected, _ = calibrate(tiles)
    corrections, _ = calibrate(
        tiles, preview_size="512", min_overlap_fraction=float("nan"), cpu_workers="-3",
        max_neighbors_per_tile="8", sky_percentile=None, robust_clip_sigma="x",
        use_auto_intertile="false", gain_clip=None, offset_clip="none", tile_weights="heavy",
        offset_only_v1="no", pair_timeout=None,
    )  # fmt: skip
    assert corrections == expected
    assert calibrate(tiles, preview_size=None, max_neighbors_per_tile=-1)[0]


def test_offset_only_holds_the_gains(tiles: Any) -> None:
    """Unless gains are requested as well; an unknown argument is named once at INFO."""
    corrections, callback = calibrate(tiles, offset_only_v1=True, new_option=3)
    assert {gain for gain, _ in corrections.values()} == {1.0}
    assert ("[Intertile] arguments without an effect: new_option", None, "INFO") in callback.calls
    both, _ = calibrate(tiles, offset_only_v1=True, gain_offset_v2=True)
    assert both == calibrate(tiles)[0]


def test_corrections_that_zemosaic_would_reduce_are_reported(tiles: Any) -> None:
    """One line at INFO has the settings to change; small corrections have none."""
    shifted = [(data + 300 * (k % 2), wcs) for k, (data, wcs) in enumerate(tiles)]
    _, callback = calibrate(shifted)
    reports = [call for call in callback.calls if "intertile_offset_limit_adu" in str(call[0])]
    assert [call[2] for call in reports] == ["INFO"]
    flat = [(tiles[0][0], tiles[0][1]), (tiles[0][0] + 3, tiles[0][1])]
    _, callback = calibrate(flat)
    assert not [line for line in callback.lines() if "intertile_offset_limit_adu" in line]


def test_the_diagnostics_describe_the_last_run(tiles: Any) -> None:
    """By ZeMosaic's names: numbers of pairs, residuals of each tile, the solution."""
    corrections, callback = calibrate(tiles)
    diagnostics = get_last_intertile_diagnostics()
    assert diagnostics["pruned_pairs_count"] == callback.progress("phase5_intertile_pairs")[0][1]
    assert {row["tile_index"] for row in diagnostics["m2_diag"]["tile_residual_summary"]} == set(
        range(9)
    )
    assert {k: tuple(v) for k, v in diagnostics["affine_solution"].items()} == corrections
    json.dumps(diagnostics)
    calibrate(tiles[:1])
    assert get_last_intertile_diagnostics()["status"].startswith("no solution")


def test_levels_absorb_planes(tiles: Any) -> None:
    """Where surfaces cannot be returned, the offsets make the levels of the overlaps agree."""
    solved = zemosaic.calibrate(tiles, zemosaic.Settings(model="gain+offset"), "threads")
    shift = 20 * np.random.default_rng(1).normal(size=solved.offset.shape)
    solution = replace(solved, slope_x=np.full_like(solved.slope_x, 0.1), offset=shift)
    refitted = reduce_solution(solution, None)

    def seams(offset: np.ndarray) -> float:
        gain = solution.gain[:, 0]
        steps = [
            gain[record.i] * line.x + offset[record.i] - gain[record.j] * line.y - offset[record.j]
            for record in solution.records
            if isinstance(line := record.measurements[0], PairMeasurement)
        ]
        return float(np.sqrt(np.mean(np.square(steps))))

    assert seams(refitted.offset[:, 0]) < 1.0 < seams(solution.offset[:, 0])
    assert np.median(refitted.offset - solution.offset) == pytest.approx(0, abs=1e-9)


def test_the_autopsy_sends_the_trace_of_a_call(
    tiles: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application without a tracer provider has none; its journal is enough, under fixed ids."""
    remove_proxies(monkeypatch)
    _, callback = calibrate(tiles, folder=tmp_path)
    (total,) = {total for _, total in callback.progress("phase5_intertile_pairs")}
    with http_receiver() as (url, received):
        for _ in range(2):
            send_missing_spans(examine(tmp_path), url)
        names = Counter(span.name for span in received.spans)
    assert len({span.trace_id for span in received.spans}) == 1
    assert len({span.span_id for span in received.spans}) == len(received.spans) / 2
    assert names["phase5_intertile"] == 2
    assert names["phase5_intertile.pair"] == 2 * total
