"""Invented mosaics with gains, levels, surfaces, illumination and glow, measured without pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.helpers.pairs import pair_line
from zemosaic.photometry.illumination import TERMS, Instruments, detector_basis
from zemosaic.photometry.pairfit.measurement import PATCH_NUMBERS, Measurement
from zemosaic.photometry.solver.channel import TileFrame
from zemosaic.photometry.solver.solve import Solution, solve
from zemosaic.photometry.solver.surfaces import ORDERS, surface_basis

SIDE = 4  # patches along each axis of an overlap
PLACES = np.moveaxis((2 * np.indices((SIDE, SIDE))[::-1] + 1) / SIDE - 1, 0, -1).reshape(-1, 2)
POINTS = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)]) / np.sqrt(3)  # of Gauss, in a patch


class InventedMosaic:
    """Tiles of one size on a square lattice, all parallel to the grid.

    ``gain * (data - glow) + offset = F * (scene - surface - bias) + bias``, so the solver shall
    find gain, offset, surface and bias of each tile, and F and glow of each instrument.

    Parameters
    ----------
    side : int
        Tiles along each side.
    seed : int
    gain, level, slope : float
        Scatter of log-gains, of sky levels in ADU, and of the surfaces' terms of first order in
        ADU at the edges.
    sky : float
        Sky level in ADU.
    level_err, gain_err : float
        Standard errors of a pair: level in ADU, and relative gain.
    instruments : int
        The tiles belong to so many instruments in turn.
    corner : float
        Loss of light in the corners; 0 for a flat illumination.
    centre : tuple of float
        Centre of the vignetting on the detector, whose edges are at -1 and 1.
    bias, own_bias : float
        Level in ADU that is no light, and its scatter from tile to tile.
    structure : float
        Amplitude of the scene in ADU.
    """

    shape = (1000, 1400)
    cell = 10  # pixels

    def __init__(
        self,
        side: int = 5,
        seed: int = 1,
        *,
        gain: float = 0.05,
        level: float = 20.0,
        slope: float = 0.0,
        sky: float = 1000.0,
        level_err: float = 0.1,
        gain_err: float = 3e-3,
        instruments: int = 1,
        corner: float = 0.0,
        centre: tuple[float, float] = (0.1, -0.15),
        bias: float = 0.0,
        own_bias: float = 0.0,
        structure: float = 30.0,
    ) -> None:
        self.rng = rng = np.random.default_rng(seed)
        tiles, height, width = side * side, *self.shape
        self.tiles = tiles
        self.level_err, self.gain_err = level_err, gain_err
        row, column = np.divmod(np.arange(tiles), side)
        step = 0.6 * np.array([width, height]) / self.cell
        self.centre = np.stack([column, row], axis=1) * step + rng.uniform(-4, 4, (tiles, 2))
        self.frame = TileFrame(
            self.centre,
            np.broadcast_to(np.eye(2) / self.cell, (tiles, 2, 2)),
            np.broadcast_to(np.array(self.shape), (tiles, 2)),
        )
        self.half = np.array([width, height]) / self.cell / 2
        self.gain = np.exp(gain * rng.normal(size=tiles))
        self.offset = level * rng.normal(size=tiles)
        self.unit = float(np.sqrt(self.half.prod()))
        self.surface = np.zeros((tiles, len(ORDERS)))
        self.surface[:, :2] = slope * rng.normal(size=(tiles, 2))
        self.labels = np.arange(tiles) % instruments
        self.instruments = Instruments(
            self.labels, tuple(f"camera {k}" for k in range(instruments))
        )
        self.log_flat = np.stack([vignetting(corner / (k + 1), centre) for k in range(instruments)])
        self.glow = np.zeros((instruments, len(TERMS)))
        self.sky_level, self.structure = sky, structure
        self.bias = bias + own_bias * np.random.default_rng(seed).normal(size=tiles)
        ends = np.triu_indices(tiles, 1)
        depth = 2 * self.half - np.abs(self.centre[ends[0]] - self.centre[ends[1]])
        overlapping = (depth > 0.1 * self.half).all(axis=1)
        self.i, self.j = (end[overlapping] for end in ends)
        self.depth = depth[overlapping]

    def scene(self, place: np.ndarray) -> np.ndarray:
        """Return the scene ``(...)`` in ADU at places ``(..., 2)`` in cells."""
        u, v = place[..., 0] / 70, place[..., 1] / 50
        waves = np.sin(u) * np.cos(v) + np.cos(1.7 * u + v) / 2
        return self.sky_level + self.structure * waves

    def flat(self, tile: int, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ln F and the glow of a tile at places ``(..., 2)``."""
        x, y = np.moveaxis((place - self.centre[tile]) / self.half, -1, 0)
        basis = detector_basis(x.ravel(), y.ravel())
        label = self.labels[tile]
        log_flat, glow = basis @ self.log_flat[label], basis @ self.glow[label]
        return log_flat.reshape(x.shape), glow.reshape(x.shape)

    def data(self, tile: int, place: np.ndarray) -> np.ndarray:
        """Return the pixels of a tile at places ``(..., 2)``."""
        surface = surface_basis((place - self.centre[tile]) / self.unit) @ self.surface[tile]
        log_flat, glow = self.flat(tile, place)
        light = np.exp(log_flat) * (self.scene(place) - surface - self.bias[tile])
        return (light + self.bias[tile] - self.offset[tile]) / self.gain[tile] + glow

    def sky(self) -> np.ndarray:
        """Return the sky levels ``(T, 1)``."""
        levels = [self.data(k, self.centre[k] + self.half * POINTS) for k in range(self.tiles)]
        return np.mean(levels, axis=1)[:, None]

    def measure(self, noise: float = 1.0) -> list[list[Measurement]]:
        """Return the measurements of all pairs, with noise in units of its standard errors."""
        return [[self._measure(k, noise)] for k in range(len(self.i))]

    def _measure(self, pair: int, noise: float) -> Measurement:
        i, j = int(self.i[pair]), int(self.j[pair])
        middle, half = (self.centre[i] + self.centre[j]) / 2, self.depth[pair] / 2
        place = middle + half * PLACES
        points = place[:, None] + half / SIDE * POINTS
        contrast = self.rng.dirichlet(np.ones(SIDE**2))
        change = contrast @ (self.flat(j, points)[0] - self.flat(i, points)[0]).mean(axis=1)
        gain_err = self.gain_err * self.rng.uniform(0.5, 2)
        change += noise * gain_err * self.rng.normal()
        gain = self.gain[i] / self.gain[j] * np.exp(change)
        error = self.level_err * SIDE / np.sqrt(2)  # of either tile
        pixels = np.array([self.data(tile, points) for tile in (i, j)])
        x, y = (
            data.mean(axis=1) + noise * error / self.gain[tile] * self.rng.normal(size=SIDE**2)
            for tile, data in zip((i, j), pixels, strict=True)
        )
        patches = np.zeros((SIDE**2, PATCH_NUMBERS))
        patches[:, :2], patches[:, 2], patches[:, 3] = place, x, y
        patches[:, [4, 6]] = (half / SIDE) ** 2 / 3
        patches[:, 7], patches[:, 8] = self.gain[j] ** 2 / (2 * error**2), contrast
        patches[:, 9:] = _tilt((pixels[0] + pixels[1] / gain) / 2, points)
        return pair_line(
            gain, x.mean(), y.mean(), gain_err, self.level_err / self.gain[j], patches=patches
        )

    def solve(self, model: str = "auto", noise: float = 1.0, **options: Any) -> Solution:
        """Solve the mosaic from its measurements."""
        given = {"frame": self.frame, "instruments": self.instruments, **options}
        return solve(self.i, self.j, self.measure(noise), self.sky(), model, **given)


def _tilt(levels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return covariances ``(p, 2)`` of levels ``(p, q)`` with their points ``(p, q, 2)``."""
    steps = points - points.mean(axis=1, keepdims=True)
    return np.asarray(np.einsum("pq,pqa->pa", levels, steps) / levels.shape[1])


def vignetting(corner: float, centre: tuple[float, float]) -> np.ndarray:
    """Return coefficients ``(M,)`` of ln F with a loss of light by the square of the distance.

    `corner` is that at a distance of √2 from the centre.
    """
    axis = np.linspace(-1, 1, 21)
    x, y = (a.ravel() for a in np.meshgrid(axis, axis))
    square = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 2
    basis = np.column_stack([np.ones_like(x), detector_basis(x, y)])
    return np.linalg.lstsq(basis, np.log1p(-corner * square), rcond=None)[0][1:]
