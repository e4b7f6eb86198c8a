"""The errors of the gains, offsets and levels of a solution, beside the truth of its scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from seams import good_tiles, pixel_noise, without_plane

from zemosaic.photometry.simulate import Scene, SimulatedTile, align_truth
from zemosaic.photometry.tiles.sky import unit_vectors
from zemosaic.pipeline.solution import PhaseSolution

#: Known tiles from which on there are errors beside a plane.
FEWEST = 4


def errors(
    scene: Scene, simulated: Sequence[SimulatedTile], solution: PhaseSolution
) -> dict[str, Any]:
    """Compute the errors of the good tiles with known gains, and their χ²."""
    good = good_tiles(scene)
    known = good & np.isfinite(solution.gain_err[:, 0])
    unknown = int(np.count_nonzero(good & ~known))
    if np.count_nonzero(known) < FEWEST:
        return {"unknown": unknown}
    tiles = [simulated[k] for k in np.flatnonzero(known)]
    found = deviations(tiles, solution, known)
    claimed = {
        "gain": (solution.gain_err / solution.gain)[known, 0],
        "offset": solution.offset_err[known, 0],
    }
    with_trend = _figures(found, claimed, frozenset())
    free = free_planes(scene)
    figures = _figures(without_planes(found, free, tiles), claimed, free)
    return {
        **figures,
        "level_sigma": figures["level_sigma"] / pixel_noise(scene),
        "chi2_gain_trend": with_trend["chi2_gain"],
        "chi2_offset_trend": with_trend["chi2_offset"],
        "unknown": unknown,
    }


def deviations(
    tiles: Sequence[SimulatedTile], solution: Any, known: np.ndarray
) -> dict[str, np.ndarray]:
    """Return relative errors of gains, and errors of offsets and levels in ADU, ``(T,)`` each.

    Parameters
    ----------
    tiles : sequence of SimulatedTile
        The known ones.
    solution : Any
        A dataclass with the arrays `gain`, `offset` and `component` of a `Solution`.
    known : ndarray
        ``(N,)`` bool: the tiles of the solution to compare.
    """
    # The logarithm of a solved illumination, and a solved glow, have a mean of 0.
    flat = np.array([np.exp(np.log(tile.flat).mean()) for tile in tiles])
    glow = np.array([tile.glow.mean() for tile in tiles])
    sky = np.array([np.nanmedian(tile.data) for tile in tiles]) - glow
    gain, offset = solution.gain[known], solution.offset[known]
    true_gain = np.array([tile.gain[0] for tile in tiles]) / flat
    true_offset = np.array([tile.offset[0] for tile in tiles]) / flat - true_gain * glow
    true_offset -= [tile.sky for tile in tiles]
    true_gain, true_offset = align_truth(
        replace(solution, gain=gain, offset=offset, component=solution.component[known]),
        true_gain[:, None],
        true_offset[:, None],
    )
    level = (gain - true_gain) * sky[:, None] + offset - true_offset
    relative = gain / true_gain - 1
    return {"gain": relative[:, 0], "offset": (offset - true_offset)[:, 0], "level": level[:, 0]}


def free_planes(scene: Scene) -> frozenset[str]:
    """Return the deviations of a scene that have a plane across the mosaic which no overlap shows.

    To the overlaps of tiles that are not turned against each other, a slope of the illumination is
    a trend of the gains. With a gradient on each tile the slope of the mosaic is unknown.
    """
    if scene.vignetting or (scene.flat_residual and scene.flat_shared):
        return frozenset({"gain", "offset", "level"})
    own = scene.gradient or scene.quadratic or scene.lamp
    return frozenset({"offset", "level"}) if own else frozenset()


def without_planes(
    found: Mapping[str, np.ndarray], free: frozenset[str], tiles: Sequence[SimulatedTile]
) -> dict[str, np.ndarray]:
    """Subtract the planes that fit the free deviations best."""
    positions = _positions(tiles)
    return {
        name: without_plane(values, positions) if name in free else values
        for name, values in found.items()
    }


def _figures(
    found: Mapping[str, np.ndarray], claimed: Mapping[str, np.ndarray], free: frozenset[str]
) -> dict[str, float]:
    """Return rms and largest deviations, and compare them with the claimed errors.

    A plane has been subtracted from those that are `free`.
    """
    pulls = {
        name: found[name] / np.where(error > 0, error, np.nan)  # held: no error
        for name, error in claimed.items()
    }
    chi2 = {
        f"chi2_{name}": float(np.sum(pull**2)) / (len(pull) - 2 * (name in free))
        for name, pull in pulls.items()
    }
    return {
        "gain_percent": 100 * float(np.sqrt(np.mean(found["gain"] ** 2))),
        "gain_max_percent": 100 * float(np.abs(found["gain"]).max()),
        "level_sigma": float(found["level"].std()),
        **chi2,
        "largest_pull": float(np.nanmax(np.abs(list(pulls.values())))),
    }


def _positions(tiles: Sequence[SimulatedTile]) -> np.ndarray:
    """Return the positions ``(T, 2)`` of tiles in the plane of the mosaic."""
    centres = unit_vectors(np.deg2rad([tile.wcs.wcs.crval for tile in tiles]))
    centres -= centres.mean(axis=0)
    positions: np.ndarray = centres @ np.linalg.svd(centres)[2][:2].T
    return positions
