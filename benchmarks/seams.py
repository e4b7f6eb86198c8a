"""What corrections leave in the tiles of a simulated scene that the sky has not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Protocol

import numpy as np
from scipy.ndimage import map_coordinates

from zemosaic import tile_from_array
from zemosaic.photometry._kernels.nodes import interpolate_nodes
from zemosaic.photometry.apply.arrays import correct
from zemosaic.photometry.preview.grid import Grid, make_grid, pixel_nodes, tile_box
from zemosaic.photometry.simulate import Scene, SimulatedTile, simulate
from zemosaic.photometry.simulate.layout import layout_tiles
from zemosaic.photometry.solver.solve import Correction
from zemosaic.photometry.tiles.tile import Tile

#: The tile that `Scene.bad` covers with a cloud.
BAD_TILE = 1


class Solved(Protocol):
    """Corrections of all tiles, as of a `Solution`."""

    def correction(self, tile: int) -> Correction:
        """Return the correction of one tile."""


def as_tile(tile: SimulatedTile) -> Tile:
    """Convert a simulated tile to one that the phase takes."""
    return tile_from_array(tile.data, tile.wcs, name=tile.name)


def pixel_noise(scene: Scene) -> float:
    """Return the noise in ADU of a pixel of the sky at gain 1."""
    return float(np.sqrt(scene.sky / scene.electrons + scene.read_noise**2))


def good_tiles(scene: Scene) -> np.ndarray:
    """Return which tiles ``(T,)`` have no cloud."""
    return ~(scene.bad & (np.arange(scene.tiles) == BAD_TILE))


def without_noise(scene: Scene) -> Scene:
    """Return a scene without noise, trails and clipping, and with equal seeing."""
    return replace(scene, electrons=0.0, seeing=0.0, trail=False, saturation=np.inf)


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


def empty_mosaic(images: Sequence[CellImage]) -> CellImage:
    """Return zeros in the cells around all images."""
    x0, y0 = min(image.x0 for image in images), min(image.y0 for image in images)
    x1, y1 = max(image.x1 for image in images), max(image.y1 for image in images)
    return CellImage(x0, y0, np.zeros((y1 - y0, x1 - x0)))


def remains(scene: Scene, solutions: Sequence[Solved]) -> list[dict[str, float]]:
    """Compute what each solution leaves in the tiles without noise and stars.

    A bad tile is left out.

    Parameters
    ----------
    scene : Scene
        With one channel.
    solutions : sequence
        Solutions of its tiles.

    Returns
    -------
    list of dict
        In units of the noise of a pixel: "within_sigma", the rms difference of corrected tiles in
        all cells of all overlaps, and "shape_sigma", the rms over the mosaic of what the corrected
        tiles have on average that the sky has not, except a level and a plane.
    """
    excess: list[list[CellImage]] = [[] for _ in solutions]
    log_factor = np.zeros((len(solutions), scene.tiles))
    skies = []
    good = good_tiles(scene)
    for index, (tile, sky, cells) in enumerate(_smooth_tiles(scene)):
        if not good[index]:
            continue
        skies.append(cells.sample(sky))
        for number, solution in enumerate(solutions):
            correction = solution.correction(index)
            excess[number].append(cells.sample(correct(tile.data, correction)))
            # An illumination has a mean logarithm of 0.
            ratio = np.log(np.abs(correction.gain[0]) / tile.gain[0]) + np.log(tile.flat).mean()
            log_factor[number, index] = ratio
    results = []
    for corrected, ratios in zip(excess, log_factor, strict=True):
        factor = np.exp(ratios[good].mean())
        left = [
            CellImage(image.x0, image.y0, image.cells / factor - sky.cells)
            for image, sky in zip(corrected, skies, strict=True)
        ]
        noise = pixel_noise(scene)
        results.append({"within_sigma": _within(left) / noise, "shape_sigma": _shape(left) / noise})
    return results


@dataclass(frozen=True, eq=False)
class _Cells:
    """The cells that a tile touches: the first one, and their positions in pixels ``(H, W)``."""

    x0: int
    y0: int
    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, tile: Tile, grid: Grid) -> _Cells:
        box = tile_box(tile, grid)
        nodes = pixel_nodes(tile, grid, box)
        x, y = interpolate_nodes(interpolate_nodes(nodes, 0, box.width, 2), 0, box.height, 1)
        return cls(box.x0, box.y0, x, y)

    def sample(self, image: np.ndarray) -> CellImage:
        """Interpolate an image of the tile linearly; NaN outside."""
        values = map_coordinates(image, [self.y, self.x], np.float64, order=1, cval=np.nan)
        return CellImage(self.x0, self.y0, values)


def _smooth_tiles(scene: Scene) -> Iterator[tuple[SimulatedTile, np.ndarray, _Cells]]:
    """Yield each tile without noise and stars, its true sky ``(H, W)``, and its cells."""
    tiles = replace(without_noise(scene), border=False, fluxes=(0.0, 0.0))
    skies = replace(
        tiles, gains=(1.0, 1.0), offset=0.0, gradient=False, quadratic=0.0, sky_scatter=0.0,
        lamp=0.0, vignetting=0.0, flat_residual=0.0, glow=0.0, bad=False,
    )  # fmt: skip
    blank = np.zeros(scene.shape, dtype=np.float32)
    frames = [tile_from_array(blank, wcs) for wcs in layout_tiles(scene)]
    grid = make_grid(frames)
    for tile, sky, frame in zip(simulate(tiles), simulate(skies), frames, strict=True):
        yield tile, sky.data, _Cells.of(frame, grid)


def _within(left: Sequence[CellImage]) -> float:
    """Return the rms difference in all overlaps."""
    squares, count = 0.0, 0
    for one, other in combinations(left, 2):
        first, second = common_slices(one, other)
        difference = one.cells[first] - other.cells[second]
        difference = difference[np.isfinite(difference)]
        squares += float(np.square(difference).sum())
        count += len(difference)
    return float(np.sqrt(squares / count))


def _shape(left: Sequence[CellImage]) -> float:
    """Return the rms over the mosaic of the mean image, except a level and a plane."""
    total, depth = empty_mosaic(left), empty_mosaic(left)
    for image in left:
        of_image, of_mosaic = common_slices(image, total)
        total.cells[of_mosaic] += np.nan_to_num(image.cells[of_image])
        depth.cells[of_mosaic] += np.isfinite(image.cells[of_image])
    covered = depth.cells > 0
    y, x = np.nonzero(covered)
    values = total.cells[covered] / depth.cells[covered]
    return float(np.sqrt(np.mean(without_plane(values, np.stack([x, y], axis=1)) ** 2)))


def without_plane(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Subtract the plane that fits values ``(N,)`` best at positions ``(N, D)``."""
    design = np.column_stack([np.ones(len(values)), positions - positions.mean(axis=0)])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
