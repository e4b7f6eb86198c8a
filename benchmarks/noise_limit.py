"""The smallest errors of a calibration that photon and read noise allow (Cramér and Rao)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from seams import CellImage, as_tile, common_slices

from zemosaic.photometry.preview.grid import make_grid
from zemosaic.photometry.preview.preview import Preview, make_preview
from zemosaic.photometry.simulate import Scene, SimulatedTile, simulate

UNITS = (1e-3, 1.0, 1e-2, 1e-2)  # typical errors of the terms, to condition the information


def noise_limit(scene: Scene) -> dict[str, float]:
    """Compute the limit of the gain, offset and seam errors of a scene.

    A cell covered by N tiles constrains the gains and levels of each of its pairs, with 2 / N of
    the information of an independent pair. The limit includes the light of all stars, however
    bright, and assumes that seeing and registration are known, as no program knows them. With
    gradients each tile has a plane, and the offset error is NaN: a plane common to all tiles is
    not an error. A bad tile contributes nothing.

    Parameters
    ----------
    scene : Scene
        Its first channel is used.

    Returns
    -------
    dict
        "gain_percent", "offset_adu" and "seam_sigma" as printed by accuracy.py.
    """
    # Gradients stay: planes remove them, and without them borders would be torn elsewhere.
    twin = replace(scene, electrons=0.0, seeing=0.0, trail=False, bad=False)
    simulated = [t for k, t in enumerate(simulate(twin)) if not (scene.bad and k == 1)]
    tiles = [as_tile(tile) for tile in simulated]
    grid, count = make_grid(tiles), len(tiles)
    light = [
        _true_light(make_preview(tile, grid).above_zero(), truth)
        for tile, truth in zip(tiles, simulated, strict=True)
    ]
    information = _information(scene, light, pixels=round(grid.scale / scene.scale) ** 2)
    covariance = information.covariance()
    # The gauge as in accuracy.py: a common factor, then the mean level at the sky of each tile.
    centred = np.eye(information.terms * count)
    centred[:: information.terms, :: information.terms] -= 1 / count
    level = _level_at_sky(scene, simulated, information.terms) @ centred
    gains = (centred @ covariance @ centred.T).diagonal()[:: information.terms]
    offset = np.sqrt((level @ covariance @ level.T).trace() / count)
    noise = np.sqrt(scene.sky / scene.electrons + scene.read_noise**2)
    seams = np.sqrt((information.seams @ covariance).trace() / information.cells)
    return {
        "gain_percent": 100 * float(np.sqrt(gains.mean())),
        "offset_adu": np.nan if scene.gradient else float(offset),
        "seam_sigma": float(seams / noise),
    }


def _true_light(preview: Preview, truth: SimulatedTile) -> CellImage:
    """Return the first channel of a preview with the true correction applied."""
    corrected = truth.gain[0] * preview.values[0] + truth.offset[0]
    return CellImage(preview.x0, preview.y0, corrected)


@dataclass(eq=False)
class _Information:
    """Information on T tiles with K terms each: gain, level and, with planes, two slopes.

    `fisher` ``(K T, K T)`` is the Fisher matrix, `seams` likewise the sum of squares of the
    differences in all overlaps, and `cells` their number of cells.
    """

    terms: int
    fisher: np.ndarray
    seams: np.ndarray
    cells: int = 0

    def covariance(self) -> np.ndarray:
        """Compute the covariance ``(K T, K T)`` of all terms with the least norm."""
        unit = np.tile(UNITS[: self.terms], len(self.fisher) // self.terms)
        scaled = self.fisher * unit[:, None] * unit
        return np.linalg.pinv(scaled, rcond=1e-9) * unit[:, None] * unit


def _information(scene: Scene, light: Sequence[CellImage], pixels: int) -> _Information:
    """Sum the information of all pairs; `light` are the true tiles, and cells have `pixels`."""
    count, terms = len(light), 4 if scene.gradient else 2
    total = _Information(terms, *np.zeros((2, terms * count, terms * count)))
    depth = _depth(light)
    for i, j in combinations(range(count), 2):
        first, second = common_slices(light[i], light[j])
        valid = np.isfinite(light[i].cells[first]) & np.isfinite(light[j].cells[second])
        if not valid.any():
            continue
        value = light[i].cells[first][valid].astype(float)
        in_depth = common_slices(light[i], depth)[1]
        variance = value / scene.electrons + scene.read_noise**2
        # Each of N tiles has 2 / N of the information of an independent pair.
        weight = pixels / variance / depth.cells[in_depth][first][valid]
        place = np.indices(depth.cells.shape)[:, *in_depth][:, *first][:, valid]
        model = np.stack([value - scene.sky, np.ones_like(value), *place])[:terms]
        ends = np.kron(np.eye(count)[i] - np.eye(count)[j], np.eye(terms))
        total.fisher += ends.T @ ((model * weight) @ model.T) @ ends
        total.seams += ends.T @ (model @ model.T) @ ends
        total.cells += len(value)
    return total


def _depth(light: Sequence[CellImage]) -> CellImage:
    """Count the tiles with a valid value in each cell of the mosaic."""
    x0, y0 = min(image.x0 for image in light), min(image.y0 for image in light)
    x1, y1 = max(image.x1 for image in light), max(image.y1 for image in light)
    depth = CellImage(x0, y0, np.zeros((y1 - y0, x1 - x0), dtype=int))
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
