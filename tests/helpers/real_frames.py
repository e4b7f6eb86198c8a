"""Real frames of which the answers are known from elsewhere, and judges of our corrections.

The frames are not part of the project; `SHARED` is their folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from zemosaic import Settings, calibrate, open_tile, tile_from_array
from zemosaic.photometry.apply.arrays import correct
from zemosaic.photometry.preview.grid import make_grid
from zemosaic.photometry.preview.preview import Preview, make_preview
from zemosaic.photometry.stars.aperture import measure_stars
from zemosaic.photometry.stars.gain import StarGain, star_gains
from zemosaic.photometry.tiles.tile import Tile
from zemosaic.pipeline.solution import PhaseSolution

PROJECT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("ZEMOSAIC_SHARED_DATA", PROJECT.parent / "shared" / "data"))
M94, NGC7023, VISTA = "seestar_m94_rgb", "seestar_ngc7023_rgb", "vista_crops"

#: Flux of each night of M94 over the first, in red, green and blue: aperture photometry of about
#: 10 stars in each of 153 pairs of frames, which closes to 1.3 to 2.3 %.
M94_FLUX = {"s1": (1.0, 1.0, 1.0), "s2": (1.18, 1.22, 1.32), "s3": (1.35, 1.36, 1.41)}
#: Flux of the second night of NGC 7023 over the first: the nebula without stars, smoothed.
NGC7023_FLUX = {"10.0s": (1.0, 1.0, 1.0), "20.0s": (2.07, 1.82, 2.78)}
#: Relative flux of the frames of VISTA: 195 stars a pair of frames, loops close to 0.15 %.
VISTA_FLUX = {
    "v1": (1.0111,), "v2": (1.0050,), "v3": (1.0042,), "v4": (0.9955,), "v5": (0.9763,),
    "v6": (1.0153,), "v7": (1.0098,), "v8": (0.9834,),
}  # fmt: skip
FLUX = {M94: M94_FLUX, NGC7023: NGC7023_FLUX, VISTA: VISTA_FLUX}

SQUARE, STEP = 48, 4  # sides in pixels of the squares of the checkerboard, and of their steps
BLOCK = 8  # side in pixels of the cells that corrected tiles are compared in
MIN_CELLS = 50  # of a pair that is compared
CLIPPED_RMS = 0.9866  # rms of a normal distribution that is clipped at 3 standard deviations


def frames(folder: str) -> list[Tile]:
    """Return the frames of a folder in the order of their names."""
    return [open_tile(path) for path in sorted((SHARED / folder).glob("*.fits"))]


def crops(tile: Tile, rows: int, columns: int) -> list[Tile]:
    """Cut a frame into rows x columns tiles of its name."""
    data, wcs = tile.pixels(), tile.wcs
    y, x = (
        np.linspace(0, side, n + 1).astype(int)
        for side, n in zip(tile.shape, (rows, columns), strict=True)
    )
    places = [
        (slice(*y[r : r + 2].tolist()), slice(*x[c : c + 2].tolist()))
        for r in range(rows)
        for c in range(columns)
    ]
    return [tile_from_array(data[:, *place], wcs[place], name=tile.name) for place in places]


def exposure(name: str) -> str:
    """Return the night or frame that a file name belongs to: a key of its table in `FLUX`."""
    return next(key for table in FLUX.values() for key in table if f"_{key}" in name)


def solve(tiles: Sequence[Tile], model: str = "auto") -> PhaseSolution:
    """Calibrate tiles with one model."""
    return calibrate(tiles, Settings(model=model, workers=2), pool="threads", observers=[])


def gain_ratios(solution: PhaseSolution, first: str, second: str) -> np.ndarray:
    """Return by what the gains of one night exceed another's, in each channel: flux over flux."""
    log_gain = np.log(solution.gain)
    nights = np.array([exposure(name) for name in solution.names])
    return np.exp(log_gain[nights == first].mean(axis=0) - log_gain[nights == second].mean(axis=0))


def gain_ratio_errors(solution: PhaseSolution, first: str, second: str) -> np.ndarray:
    """Return the relative errors of `gain_ratios`, of nights whose frames share their errors."""
    relative = solution.gain_err / solution.gain
    nights = np.array([exposure(name) for name in solution.names])
    return np.hypot(*(np.median(relative[nights == night], axis=0) for night in (first, second)))


def gain_times_flux(solution: PhaseSolution, folder: str) -> np.ndarray:
    """Return gain times the flux of the stars, ``(T, C)``, over its geometric mean: 1 is true."""
    flux = np.array([FLUX[folder][exposure(name)] for name in solution.names])
    product = np.log(solution.gain * flux)
    return np.exp(product - product.mean(axis=0))


def star_fluxes(tiles: Sequence[Tile]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the flux of each exposure over the first by our own aperture photometry.

    Returns
    -------
    fluxes : dict
        ``(C,)`` by exposure.
    errors : ndarray
        ``(E, C)`` relative errors in the order of `fluxes`; 0 for the first.
    """
    stars = [measure_stars(tile) for tile in tiles]
    names = sorted({exposure(tile.name) for tile in tiles})
    place = [names.index(exposure(tile.name)) for tile in tiles]
    pairs = [(i, j) for i, j in combinations(range(len(tiles)), 2) if place[i] != place[j]]
    gains = [star_gains(stars[i], stars[j]) for i, j in pairs]
    solved = [
        _potentials(
            [(place[i], place[j]) for i, j in pairs], [gain[c] for gain in gains], len(names)
        )
        for c in range(tiles[0].channels)
    ]
    value, error = np.moveaxis(np.array(solved), 0, 2)
    return dict(zip(names, np.exp(value), strict=True)), error


def _potentials(
    pairs: Iterable[tuple[int, int]], gains: Sequence[StarGain], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return log-fluxes ``(count,)`` relative to the first, by least squares, and their errors."""
    rows, values = [], []
    for (i, j), star in zip(pairs, gains, strict=True):
        if star.stars:
            weight = star.gain / star.gain_err
            row = np.zeros(count)
            row[i], row[j] = -weight, weight
            rows.append(row[1:])
            values.append(weight * np.log(star.gain))
    design = np.array(rows)
    inverse = np.linalg.inv(design.T @ design)
    solved = inverse @ design.T @ np.array(values)
    return np.append(0.0, solved), np.append(0.0, np.sqrt(np.diag(inverse)))


def on_squares(tiles: Sequence[Tile], colour: int) -> list[Tile]:
    """Return the tiles with the squares of one colour of a checkerboard on the sky alone."""
    grid = make_grid(list(tiles), SQUARE)
    masked = []
    for tile in tiles:
        height, width = tile.shape
        y, x = np.mgrid[STEP / 2 : height + STEP : STEP, STEP / 2 : width + STEP : STEP]
        sky = tile.wcs.all_pix2world(np.stack([x.ravel(), y.ravel()], axis=1), 0)
        square = np.floor(grid.wcs.all_world2pix(sky, 0)).astype(int).sum(axis=1) % 2
        coarse = (square != colour).reshape(x.shape)
        mask = np.kron(coarse, np.ones((STEP, STEP), bool))[:height, :width]
        masked.append(tile_from_array(tile.pixels(), tile.wcs, mask, name=tile.name))
    return masked


def unseen_difference(tiles: Sequence[Tile], model: str) -> float:
    """Solve on the squares of one colour and judge on the others, and the reverse.

    Returns
    -------
    float
        RMS difference of corrected tiles in units of its noise in cells of `BLOCK` pixels, of all
        pairs and channels alike, without what stars leave beyond three standard deviations.
    """
    halves = [on_squares(tiles, colour) for colour in (0, 1)]
    grid = make_grid(list(tiles), BLOCK)
    squares = []
    for seen, unseen in (halves, halves[::-1]):
        solution = solve(seen, model)
        corrected = [
            make_preview(
                tile_from_array(
                    correct(tile.pixels(), solution.correction(k)), tile.wcs, name=tile.name
                ),
                grid,
            )
            for k, tile in enumerate(unseen)
        ]
        squares += [
            clipped_rms(channel) ** 2
            for first, second in combinations(corrected, 2)
            for channel in _differences(first, second)
        ]
    return float(np.sqrt(np.mean(squares)))


def _differences(first: Preview, second: Preview) -> Iterable[np.ndarray]:
    """Yield the differences of the common cells of each channel in units of their noise."""
    x0, y0 = max(first.x0, second.x0), max(first.y0, second.y0)
    (values, variance), (other, other_variance) = (
        [
            array[:, y0 - preview.y0 :, x0 - preview.x0 :] * np.float64(2.0) ** power
            for array, power in (
                (preview.values, preview.exponent),
                (preview.variance, 2 * preview.exponent),
            )
        ]
        for preview in (first, second)
    )
    pedestal = first.pedestal - second.pedestal
    height, width = (min(values.shape[axis], other.shape[axis]) for axis in (1, 2))
    if height < 1 or width < 1:
        return
    common = np.s_[:, :height, :width]
    difference = values[common] - other[common] + pedestal[:, None, None]
    difference /= np.sqrt(variance[common] + other_variance[common])
    for channel in difference:
        valid = channel[np.isfinite(channel)]
        if len(valid) >= MIN_CELLS:
            yield valid


def clipped_rms(values: np.ndarray) -> float:
    """Return the rms about zero without values beyond three standard deviations, iterated."""
    limit = np.inf
    for _ in range(20):
        rms = float(np.sqrt(np.mean(values[np.abs(values) <= limit] ** 2)))
        if np.isinf(limit):
            rms = float(np.median(np.abs(values))) / 0.6745
        limit = 3 * rms
    return rms / CLIPPED_RMS
