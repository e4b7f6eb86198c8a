"""The seams that corrections leave, on noiseless tiles of a simulated scene."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zemosaic import tile_from_array
from zemosaic.photometry._kernels.nodes import interpolate_nodes
from zemosaic.photometry.preview.grid import Box, make_grid, pixel_nodes
from zemosaic.photometry.preview.preview import make_preview
from zemosaic.photometry.simulate import Scene, SimulatedTile, simulate
from zemosaic.photometry.tiles.tile import Tile


def as_tile(tile: SimulatedTile) -> Tile:
    """Convert a simulated tile to one that the phase takes."""
    return tile_from_array(tile.data, tile.wcs, name=tile.name)


@dataclass(frozen=True, eq=False)
class CellImage:
    """An image on the shared grid: x and y of its first cell, and its cells ``(H, W)``."""

    x0: int
    y0: int
    cells: np.ndarray

    @property
    def x1(self) -> int:
        """The x after the last cell."""
        return self.x0 + self.cells.shape[1]

    @property
    def y1(self) -> int:
        """The y after the last cell."""
        return self.y0 + self.cells.shape[0]


Slices = tuple[slice, slice]


def common_slices(first: CellImage, second: CellImage) -> tuple[Slices, Slices]:
    """Return the slices of both images with the same cells of the grid; empty if there are none."""
    x0, y0 = max(first.x0, second.x0), max(first.y0, second.y0)
    x1, y1 = max(x0, min(first.x1, second.x1)), max(y0, min(first.y1, second.y1))
    of_first, of_second = (
        (slice(y0 - image.y0, y1 - image.y0), slice(x0 - image.x0, x1 - image.x0))
        for image in (first, second)
    )
    return of_first, of_second


@dataclass(frozen=True, eq=False)
class _SeamTile:
    """A noiseless tile: sky and light of stars and nebula, on the grid.

    Parameters
    ----------
    sky : CellImage
        Sky level in ADU of the tile.
    light : ndarray
        ``(H, W)`` in corrected ADU.
    x, y : ndarray
        ``(H, W)`` position of the cells in pixels from the centre of the tile.
    gain : float
        The true gain.
    """

    sky: CellImage
    light: np.ndarray
    x: np.ndarray
    y: np.ndarray
    gain: float

    def corrected(self, solution: Any, tile: int) -> CellImage:
        """Return the corrected sky."""
        cells = solution.gain[tile, 0] * self.sky.cells.astype(np.float64)
        cells += solution.offset[tile, 0]
        cells += solution.slope_x[tile, 0] * self.x + solution.slope_y[tile, 0] * self.y
        return CellImage(self.sky.x0, self.sky.y0, cells)


class Seams:
    """The tiles of a scene without noise and with equal seeing, to apply corrections to.

    Both tiles of a pair get the same stars and clouds, those of the first. So the difference is
    that of the corrections and not that of two samplings of a star.
    """

    def __init__(self, scene: Scene) -> None:
        self.noise = float(np.sqrt(scene.sky / scene.electrons + scene.read_noise**2))
        twin = replace(scene, electrons=0.0, seeing=0.0, trail=False, border=False)
        simulated = list(simulate(twin))
        skies = simulate(replace(twin, stars=0.0, nebula=0.0))
        grid = make_grid([as_tile(tile) for tile in simulated])
        self.tiles = []
        for tile, sky_tile in zip(simulated, skies, strict=True):
            full, sky = (make_preview(as_tile(t), grid).above_zero() for t in (tile, sky_tile))
            light = (full.values[0] - sky.values[0]) * np.float32(tile.gain[0])
            h, w = light.shape
            nodes = pixel_nodes(as_tile(tile), grid, Box(full.x0, full.y0, w, h))
            x, y = interpolate_nodes(interpolate_nodes(nodes, 0, w, 2), 0, h, 1)
            centre = [(n - 1) / 2 for n in scene.shape]
            x, y = (x - centre[1]).astype(np.float32), (y - centre[0]).astype(np.float32)
            image = CellImage(full.x0, full.y0, sky.values[0])
            self.tiles.append(_SeamTile(image, light, x, y, tile.gain[0]))

    def rms(self, solution: Any, pairs: Iterable[Any], good: np.ndarray | None = None) -> float:
        """Compute the rms difference in the overlaps, in units of the pixel noise.

        Parameters
        ----------
        solution : Any
            With the arrays ``(T, C)`` of a `Solution`.
        pairs : iterable
            Pairs with the attributes `i` and `j`.
        good : ndarray or None
            ``(T,)`` bool: tiles that count; None for all.
        """
        tiles = {k: t for k, t in enumerate(self.tiles) if good is None or good[k]}
        corrected = {k: tile.corrected(solution, k) for k, tile in tiles.items()}
        factor = {k: solution.gain[k, 0] / tile.gain for k, tile in tiles.items()}
        squares, cells = 0.0, 0
        for i, j in ((pair.i, pair.j) for pair in pairs):
            if i in tiles and j in tiles:
                first, second = common_slices(corrected[i], corrected[j])
                difference = corrected[i].cells[first] - corrected[j].cells[second]
                difference = difference + (factor[i] - factor[j]) * tiles[i].light[first]
                difference = difference[np.isfinite(difference)]
                squares += float(np.square(difference).sum())
                cells += len(difference)
        return float(np.sqrt(squares / cells)) / self.noise
