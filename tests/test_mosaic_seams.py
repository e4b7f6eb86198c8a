"""Seams of the mosaic by the measure of the eye: steps across the borders of its tiles."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from zemosaic.photometry.mosaic.canvas import choose_canvas
from zemosaic.photometry.mosaic.coadd import CoaddPlan, coadd_block, plan_coadd
from zemosaic.photometry.mosaic.resample import CoaddInput
from zemosaic.photometry.mosaic.survey import survey_tile
from zemosaic.photometry.simulate import Scene, SimulatedTile, simulate
from zemosaic.photometry.solver.solve import Correction
from zemosaic.photometry.tiles.tile import Tile, tile_from_array
from zemosaic.pipeline.calibrate import calibrate
from zemosaic.pipeline.solution import PhaseSolution

#: Rows of pixels on either side of a border that are compared, and pixels along a border.
DEPTH, LENGTH = 3, 48
#: Largest step in standard deviations of the noise of a pixel of the mosaic.
LARGEST_STEP = 0.05
UNIT = Correction(np.ones(1), np.zeros(1))
SCENES: dict[str, dict[str, Any]] = {
    "plain": {},
    "illumination": {"vignetting": 0.15},
    "gradients": {"gradient": True},
    "trails and borders": {"trail": True, "border": True},
    "trails alone": {"trail": True, "fluxes": (0.0, 0.0)},
}


def scene(name: str) -> Scene:
    options = {"tiles": 9, "shape": (192, 256), "overlap": 0.4, "stars": 1e-3, **SCENES[name]}
    return Scene(**options)


def as_tiles(simulated: list[SimulatedTile]) -> list[Tile]:
    return [tile_from_array(tile.data, tile.wcs, name=tile.name) for tile in simulated]


@cache
def solved(name: str) -> tuple[list[Tile], PhaseSolution]:
    tiles = as_tiles(list(simulate(scene(name))))
    return tiles, calibrate(tiles, pool="serial", observers=[])


def plan_of(name: str, combination: str = "mean") -> CoaddPlan:
    """Return the plan of the mosaic of a scene."""
    tiles, solution = solved(name)
    pairs = [(tile, solution.correction(index)) for index, tile in enumerate(tiles)]
    surveys = [survey_tile(tile) for tile in tiles]
    return plan_coadd(pairs, surveys, choose_canvas(tiles), combination)


def with_pixels(plan: CoaddPlan, tiles: list[Tile], correction: Correction | None) -> CoaddPlan:
    """Return a plan with the weights of another one and other pixels."""
    sources = (
        CoaddInput(tile, correction or source.correction, source.survey, source.placement,
                   source.noise)
        for source, tile in zip(plan.sources, tiles, strict=True)
    )  # fmt: skip
    return replace(plan, sources=tuple(sources))


def coadded(plan: CoaddPlan) -> Any:
    return coadd_block(plan, plan.canvas.box)


def clean_tiles(name: str, **changes: Any) -> list[Tile]:
    """Return the tiles of a scene without noise and stars, with the valid pixels of the others."""
    clean = replace(
        scene(name), electrons=0.0, seeing=0.0, trail=False, fluxes=(0.0, 0.0),
        saturation=np.inf, border=False, **changes,
    )  # fmt: skip
    tiles = as_tiles(list(simulate(clean)))
    for tile, noisy in zip(tiles, solved(name)[0], strict=True):
        tile.data[~np.isfinite(noisy.data)] = np.nan
    return tiles


def steps(plan: CoaddPlan, excess: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the steps of an image across all borders of all tiles, in units of the noise.

    A step is the difference of the levels that both sides have where they meet, so that a gradient
    is none.
    """
    y, x = np.mgrid[: excess.shape[0], : excess.shape[1]]
    sky = plan.canvas.wcs.all_pix2world(x, y, 0)
    found = []
    for source in plan.sources:
        u, v = source.tile.wcs.all_world2pix(*sky, 0)
        height, width = source.tile.shape
        for across, along, length in (
            (-0.5 - u, v, height), (u - width + 0.5, v, height),
            (-0.5 - v, u, width), (v - height + 0.5, u, width),
        ):  # fmt: skip
            for start in range(0, length - LENGTH + 1, LENGTH):
                near = (along >= start) & (along < start + LENGTH) & np.isfinite(excess)
                step = _step(excess, near, across)
                if np.isfinite(step):
                    found.append(step / noise[near & (np.abs(across) < DEPTH)].mean())
    return np.abs(found)


def _step(excess: np.ndarray, near: np.ndarray, across: np.ndarray) -> float:
    """Return the step at a piece of a border; NaN unless other tiles cover all of its outside."""
    rows = [near & (np.abs(across - DEPTH * (k + 0.5)) < DEPTH / 2) for k in range(-2, 2)]
    if min(row.sum() for row in rows) < 0.95 * DEPTH * LENGTH:
        return np.nan
    far_in, inside, outside, far_out = (excess[row].mean() for row in rows)
    return 1.5 * (inside - outside) - (far_in - far_out) / 2


@pytest.mark.parametrize("name", SCENES)
def test_no_step_is_seen_at_the_border_of_a_tile(name: str) -> None:
    """With the weights and corrections of noisy tiles, on their sky without noise and stars."""
    plan = plan_of(name)
    clean = coadded(with_pixels(plan, clean_tiles(name), None))
    sky = {"gains": (1.0, 1.0), "offset": 0.0, "gradient": False, "vignetting": 0.0}
    truth = coadded(with_pixels(plan, clean_tiles(name, **sky), UNIT))
    noise = coadded(plan).error[0]
    found = steps(plan, clean.data[0] - truth.data[0], noise)
    assert len(found) > 60
    assert found.max() < LARGEST_STEP
    assert np.nanmin(noise) > 3


def test_the_measure_sees_a_seam() -> None:
    """Without corrections, or with the weights of a plain mean, the steps are large."""
    plan = plan_of("plain")
    noise = coadded(plan).error[0]
    sky = {"gains": (1.0, 1.0), "offset": 0.0}
    truth = clean_tiles("plain", **sky)
    assert steps(plan, coadded(with_pixels(plan, truth, UNIT)).data[0] * 0, noise).max() == 0
    for number, tile in enumerate(truth):
        tile.data[:] = 5 * (number % 3)  # differences of half the noise and more
    flat = [
        replace(s, survey=replace(s.survey, distance=np.full_like(s.survey.distance, 1e3)))
        for s in with_pixels(plan, truth, UNIT).sources
    ]
    seams = coadded(replace(plan, sources=tuple(flat))).data[0]
    assert steps(plan, seams, noise).max() > 2 * LARGEST_STEP
    smooth = coadded(with_pixels(plan, truth, UNIT)).data[0]
    assert steps(plan, smooth, noise).max() < LARGEST_STEP


def test_clip_leaves_no_trail() -> None:
    """No pixel that three tiles cover is outside 6 standard deviations for a trail on one."""
    plan = plan_of("trails alone", "clip")
    tiles = as_tiles(list(simulate(replace(scene("trails alone"), trail=False))))
    reference = coadded(replace(with_pixels(plan, tiles, None), combination="mean"))
    plan = with_pixels(plan, [solved("trails alone")[0][0], *tiles[1:]], None)
    deep = reference.coverage >= 3
    sigma = {
        kind: np.abs(coadd.data[0] - reference.data[0])[deep] / reference.error[0][deep]
        for kind in ("mean", "clip")
        if (coadd := coadded(replace(plan, combination=kind)))
    }
    assert deep.sum() > 10_000
    assert np.nanmax(sigma["mean"]) > 6
    assert np.nanmax(sigma["clip"]) < 6
