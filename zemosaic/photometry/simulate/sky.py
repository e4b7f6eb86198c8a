"""The simulated sky: random stars and clouds of nebulosity in the area of the tiles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from astropy.wcs import WCS
from scipy.spatial import cKDTree

from ..tiles.sky import unit_vectors
from .scene import RandomStream, Scene

#: Random directions per tile from which stars and clouds are drawn.
DIRECTIONS = 4000
#: Range of these directions in a tile, as fractions of its sides: a margin of 5 %.
MARGIN_RANGE = (-0.05, 1.05)
#: Area of that range in units of the tile's.
MARGIN_AREA = 1.21
#: Radius in which directions are counted, as a fraction of the shorter side.
COUNT_RADIUS = 0.1
#: Scatter of the stars around the directions, as a fraction of the shorter side.
STAR_SCATTER = 0.01
#: N(> flux) ~ flux ** -COUNT_SLOPE, as star counts near the galactic plane.
COUNT_SLOPE = 1.2
#: Distance, in units of its size, beyond which a cloud is invisible.
CLOUD_REACH = 7


@dataclass(frozen=True, eq=False)
class Stars:
    """N stars.

    Parameters
    ----------
    units : ndarray
        ``(N, 3)`` unit vectors.
    flux : ndarray
        ``(N,)`` in ADU.
    colour : ndarray
        ``(C, N)`` relative flux in each channel.
    """

    units: np.ndarray
    flux: np.ndarray
    colour: np.ndarray

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.units)

    def within(self, direction: np.ndarray, radius: float) -> np.ndarray:
        """Return the sorted indices of the stars near a unit vector, at most `radius` away."""
        return np.array(sorted(self._tree.query_ball_point(direction, radius)), dtype=int)


@dataclass(frozen=True, eq=False)
class Clouds:
    """N Gaussian clouds of nebulosity.

    Parameters
    ----------
    units : ndarray
        ``(N, 3)`` unit vectors.
    size : ndarray
        ``(N,)`` standard deviation in radians.
    peak : ndarray
        ``(N,)`` in ADU.
    colour : ndarray
        ``(C, N)`` relative brightness in each channel.
    """

    units: np.ndarray
    size: np.ndarray
    peak: np.ndarray
    colour: np.ndarray

    def brightness(self, units: np.ndarray) -> np.ndarray:
        """Return the nebulosity ``(C, M)`` in ADU in the directions ``(M, 3)``."""
        centre = units.mean(axis=0)
        radius = np.linalg.norm(units - centre, axis=1).max()
        distance = np.linalg.norm(self.units - centre, axis=1)
        near = distance < radius + CLOUD_REACH * self.size
        squared_distance = 2 - 2 * units @ self.units[near].T
        light = np.exp(-squared_distance / (2 * self.size[near] ** 2)) * self.peak[near]
        return self.colour[:, near] @ light.T


def make_sky(scene: Scene, frames: list[WCS]) -> tuple[Stars, Clouds]:
    """Return the stars and the clouds in the area of the tiles with the given WCSs."""
    rng = scene.random(RandomStream.SKY)
    directions = _uniform_directions(scene, frames, rng)
    return _make_stars(scene, directions, rng), _make_clouds(scene, directions, len(frames), rng)


def _uniform_directions(scene: Scene, frames: list[WCS], rng: np.random.Generator) -> np.ndarray:
    """Return random unit vectors ``(N, 3)`` in the tiles, of even density also in overlaps."""
    height, width = scene.shape
    sky = np.concatenate([
        wcs.all_pix2world(rng.uniform(*MARGIN_RANGE, (DIRECTIONS, 2)) * [width, height], 0)
        for wcs in frames
    ])  # fmt: skip
    units = unit_vectors(np.deg2rad(sky))
    radius = COUNT_RADIUS * min(height, width)  # pixels
    tree = cKDTree(units, leafsize=32)
    count = tree.query_ball_point(
        units, radius * np.deg2rad(scene.scale), return_length=True, workers=-1
    )
    count_in_one_tile = np.pi * radius**2 * DIRECTIONS / (MARGIN_AREA * height * width)
    kept = rng.uniform(size=len(units)) < count_in_one_tile / np.maximum(count, count_in_one_tile)
    return units[kept]


def _make_stars(scene: Scene, directions: np.ndarray, rng: np.random.Generator) -> Stars:
    height, width = scene.shape
    count = rng.poisson(scene.stars * height * width * MARGIN_AREA * len(directions) / DIRECTIONS)
    chosen = directions[rng.integers(len(directions), size=count)]
    scatter = STAR_SCATTER * min(height, width) * np.deg2rad(scene.scale)
    units = chosen + rng.normal(scale=scatter, size=chosen.shape)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    faintest, brightest = scene.fluxes
    flux = np.minimum(faintest * rng.uniform(size=count) ** (-1 / COUNT_SLOPE), brightest)
    colour = rng.uniform(0.6, 1.4, size=(scene.channels, count))
    if not scene.rgb:
        colour[:] = 1.0
    return Stars(units, flux, colour)


def _make_clouds(
    scene: Scene, directions: np.ndarray, tiles: int, rng: np.random.Generator
) -> Clouds:
    count = max(3, tiles)
    units = directions[rng.integers(len(directions), size=count)]
    size = rng.uniform(0.1, 0.5, count) * max(scene.shape) * np.deg2rad(scene.scale)
    peak = rng.uniform(0.2, 1.0, count) * scene.nebula
    colour = rng.uniform(0.5, 1.5, size=(scene.channels, count))
    return Clouds(units, size, peak, colour)
