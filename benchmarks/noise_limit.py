"""The smallest errors of a calibration that photon and read noise allow (Cramér and Rao)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from seams import (
    CellImage,
    as_tile,
    common_slices,
    empty_mosaic,
    good_tiles,
    pixel_noise,
    without_noise,
)

from zemosaic.photometry.preview.grid import make_grid
from zemosaic.photometry.preview.preview import Preview, make_preview
from zemosaic.photometry.simulate import Scene, SimulatedTile, simulate

UNITS = (1e-3, 1.0, 1e-2, 1e-2)  # typical errors of the terms, to condition the information


def noise_limit(scene: Scene) -> dict[str, float]:
    """Compute the limit of the errors of gains and levels of a scene, and of its overlaps.

    A cell covered by N tiles constrains the gains and levels of each of its pairs, with 2 / N of
    the information of an independent pair. The limit includes the light of all stars, however
    bright, and assumes that seeing and registration are known, as no program knows them. With
    gradients each tile has a plane, and the level error is NaN: a plane common to all tiles is
    not an error. A bad tile contributes nothing.

    Parameters
    ----------
    scene : Scene
        Its first channel is used.

    Returns
    -------
    dict
        "gain_percent", "level_sigma" and "within_sigma" as printed by accuracy.py.
    """
    # Gradients stay: planes remove them, and without them borders would be torn elsewhere.
    twin = replace(without_noise(scene), bad=False)
    simulated = _good(scene, twin)
    grid, count = make_grid([as_tile(tile) for tile in simulated]), len(simulated)
    light, smooth = (
        [_true_light(make_preview(as_tile(tile), grid).above_zero(), tile) for tile in of]
        for of in (simulated, _good(scene, replace(twin, fluxes=(0.0, 0.0))))
    )
    pixels = round(grid.scale / scene.scale) ** 2
    information = _information(scene, light, smooth, pixels)
    covariance = information.covariance()
    # The gauge as in accuracy.py: a common factor, then the mean level at the sky of each tile.
    centred = np.eye(information.terms * count)
    centred[:: information.terms, :: information.terms] -= 1 / count
    level = _level_at_sky(scene, simulated, information.terms) @ centred
    gains = (centred @ covariance @ centred.T).diagonal()[:: information.terms]
    level_error = np.sqrt((level @ covariance @ level.T).trace() / count)
    noise = pixel_noise(scene)
    within = np.sqrt((information.differences @ covariance).trace() / information.cells)
    return {
        "gain_percent": 100 * float(np.sqrt(gains.mean())),
        "level_sigma": np.nan if scene.gradient else float(level_error / noise),
        "within_sigma": float(within / noise),
    }


def _good(scene: Scene, twin: Scene) -> list[SimulatedTile]:
    good = good_tiles(scene)
    return [tile for index, tile in enumerate(simulate(twin)) if good[index]]


def _true_light(preview: Preview, truth: SimulatedTile) -> CellImage:
    """Return the first channel of a preview with the true correction applied."""
    corrected = truth.gain[0] * preview.values[0] + truth.offset[0]
    return CellImage(preview.x0, preview.y0, corrected)


@dataclass(eq=False)
class _Information:
    """Information on T tiles with K terms each: gain, level and, with planes, two slopes.

    `fisher` ``(K T, K T)`` is the Fisher matrix, `differences` likewise the sum of squares of the
    differences of the light without stars in all overlaps, and `cells` their number of cells.
    """

    terms: int
    fisher: np.ndarray
    differences: np.ndarray
    cells: int = 0

    def covariance(self) -> np.ndarray:
        """Compute the covariance ``(K T, K T)`` of all terms with the least norm."""
        unit = np.tile(UNITS[: self.terms], len(self.fisher) // self.terms)
        scaled = self.fisher * unit[:, None] * unit
        return np.linalg.pinv(scaled, rcond=1e-9) * unit[:, None] * unit


def _information(
    scene: Scene, light: Sequence[CellImage], smooth: Sequence[CellImage], pixels: int
) -> _Information:
    """Sum the information of all pairs of true tiles, with stars and without; see the class.

    Cells have `pixels`.
    """
    count, terms = len(light), 4 if scene.gradient else 2
    total = _Information(terms, *np.zeros((2, terms * count, terms * count)))
    depth = _depth(light)
    for i, j in combinations(range(count), 2):
        first, second = common_slices(light[i], light[j])
        valid = np.isfinite(light[i].cells[first]) & np.isfinite(light[j].cells[second])
        if not valid.any():
            continue
        in_depth = common_slices(light[i], depth)[1]
        place = np.indices(depth.cells.shape)[:, *in_depth][:, *first][:, valid]
        model, smooth_model = (
            np.stack([of[i].cells[first][valid] - scene.sky, np.ones(place.shape[1]), *place])
            for of in (light, smooth)
        )
        variance = (model[0] + scene.sky) / scene.electrons + scene.read_noise**2
        # Each of N tiles has 2 / N of the information of an independent pair.
        weight = pixels / variance / depth.cells[in_depth][first][valid]
        ends = np.kron(np.eye(count)[i] - np.eye(count)[j], np.eye(terms))
        model, smooth_model = model[:terms], smooth_model[:terms]
        total.fisher += ends.T @ ((model * weight) @ model.T) @ ends
        total.differences += ends.T @ (smooth_model @ smooth_model.T) @ ends
        total.cells += place.shape[1]
    return total


def _depth(light: Sequence[CellImage]) -> CellImage:
    """Count the tiles with a valid value in each cell of the mosaic."""
    depth = empty_mosaic(light)
    for image in light:
        depth.cells[common_slices(image, depth)[1]] += np.isfinite(image.cells)
    return depth


def _level_at_sky(scene: Scene, simulated: Sequence[SimulatedTile], terms: int) -> np.ndarray:
    """Return the matrix ``(T, K T)`` from terms to levels at each tile's sky, of mean 0."""
    count = len(simulated)
    level = np.kron(np.eye(count), [[0.0, 1.0, 0.0, 0.0][:terms]])
    level[np.arange(count), terms * np.arange(count)] = [
        np.nanmedian(t.data) * t.gain[0] + t.offset[0] - scene.sky for t in simulated
    ]
    return (np.eye(count) - 1 / count) @ level
