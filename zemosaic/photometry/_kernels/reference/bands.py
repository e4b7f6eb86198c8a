"""The gains of a pair in two bands of scales, and the levels of both tiles by area."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...robust import GAUSSIAN_MEDIAN
from ..algebra import dot, fit_line, median, row_products, thin
from ..lattice import AREAS, MIDDLE, Band, BandSums, Lattice
from ..layout import Column, LineFit, SampleArrays, has_scene
from .irls import SCENE_COLUMNS

FEWEST_FREE = 3  # residuals beyond the number of fitted terms, for a robust scale
LEAST_SPREAD = 1e-3  # squared, in cells, of positions in a group for which a gradient is fitted


def summarize_bands(
    samples: SampleArrays, fit: LineFit, *, scene_information: np.ndarray
) -> BandSums:
    """Summarize the bands and the areas of each channel.

    Parameters
    ----------
    samples : SampleArrays
        Of C channels.
    fit : LineFit
        Their fit.
    scene_information : ndarray
        ``(3,)`` prior information on the coefficients of gradient and Laplacian, in each band.
    """
    number = int(samples.patch.max()) + 1
    rows = _locate_rows(samples, fit.design)
    sums = BandSums.empty(len(fit.slope))
    shares = np.zeros((2, len(fit.slope), number))
    for k, band in enumerate(_split_bands(samples, fit, rows)):
        if band.columns.shape[-1]:
            shares[k] = _fit_band(sums, k, band, number, fit.instrument_noise, scene_information)
        else:
            sums.bands[:, k] = sums.shares[:, k] = 0
    if not has_scene(fit.design):
        sums.bands[:, MIDDLE, Band._fields.index("scale")] = fit.scale
    shares /= np.maximum(shares.sum(axis=-1, keepdims=True), 1e-300)
    sums.bands[..., -2] = dot(shares, shares).T
    sums.bands[..., -1] = dot(shares[0], shares[1])[:, None]
    blocks = len(samples.u)
    weights, area = fit.weights[:, None, :blocks], rows.area[:blocks]
    place = np.broadcast_to(np.array([samples.u, samples.v]), (len(weights), 2, blocks))
    values = np.concatenate([place, np.stack([samples.x, samples.y], axis=1)], axis=1)
    first, second = np.array([(0, 0), (0, 1), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]).T
    values = np.concatenate([values, values[:, first] * values[:, second]], axis=1)
    total = group_sums(area, weights, AREAS)
    mean = group_sums(area, weights * values, AREAS) / np.where(total > 0, total, 1)
    mean[:, 4:] -= mean[:, first] * mean[:, second]
    sums.levels[:] = np.concatenate([mean, total], axis=1).swapaxes(1, 2)
    return sums


class _Rows(NamedTuple):
    """Area ``(R,)`` of each row, unit of each row of the small band, area and patch of each unit.

    Units of single cells are numbered for themselves.
    """

    area: np.ndarray
    unit: np.ndarray
    unit_area: np.ndarray
    unit_patch: np.ndarray


class _Band(NamedTuple):
    """Rows of a band: differences from the means of their area, or from the plane of their unit.

    `fitted` ``(C,)`` is how many numbers were subtracted by group, and `terms` how many terms the
    line has.
    """

    columns: np.ndarray
    weights: np.ndarray
    patch: np.ndarray
    area: np.ndarray
    fitted: np.ndarray
    terms: int


def _locate_rows(samples: SampleArrays, design: np.ndarray) -> _Rows:
    lattice, none = samples.lattice, np.zeros(0, dtype=np.intp)
    if not has_scene(design):
        return _Rows(np.zeros(design.shape[2], dtype=np.intp), none, none, none)
    row, column = np.divmod(samples.block_index, lattice.frame_columns)
    column = (column + lattice.shift_u) // lattice.unit_blocks
    row = (row + lattice.shift_v) // lattice.unit_blocks
    area = _area(lattice, column, row)
    every_row, every_column = np.divmod(
        np.arange(lattice.units_u * lattice.units_v), lattice.units_u
    )
    if lattice.unit_blocks == 1:
        starts = np.diff(samples.cell_block, prepend=-1) != 0
        cell_area = np.concatenate([area, area[samples.cell_block]])
        return _Rows(cell_area, np.cumsum(starts) - 1, none, none)
    unit = row * lattice.units_u + column
    unit_patch = np.zeros(len(every_row), dtype=np.intp)
    unit_patch[unit] = samples.patch[: len(unit)]
    return _Rows(area, unit, _area(lattice, every_column, every_row), unit_patch)


def _area(lattice: Lattice, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return the areas of units."""
    down = row * lattice.areas_v // lattice.units_v
    return np.asarray(down * lattice.areas_u + column * lattice.areas_u // lattice.units_u)


def _split_bands(samples: SampleArrays, fit: LineFit, rows: _Rows) -> tuple[_Band, _Band]:
    """Split the rows into the small and the middle band."""
    blocks, terms = len(samples.u), fit.design.shape[1] - Column.LEVEL
    fitted = np.zeros(len(fit.slope), dtype=np.intp)
    every = _Band(fit.design, fit.weights, samples.patch, rows.area, fitted, terms)
    if not has_scene(fit.design):
        return _some_rows(every, slice(0)), every
    of_blocks = _some_rows(every, slice(blocks))
    if samples.lattice.unit_blocks == 1:
        cells = _some_rows(every, slice(blocks, None))
        return _without_planes(cells, rows.unit), _without_means(of_blocks, rows.area, AREAS)
    units = len(rows.unit_area)
    weights = group_sums(rows.unit, of_blocks.weights, units)
    sums = group_sums(rows.unit, of_blocks.weights[:, None] * of_blocks.columns, units)
    middle = _Band(
        sums / np.where(weights > 0, weights, np.inf)[:, None], weights, rows.unit_patch,
        rows.unit_area, fitted, terms,
    )  # fmt: skip
    return _without_planes(of_blocks, rows.unit), _without_means(middle, rows.unit_area, AREAS)


def _some_rows(band: _Band, rows: slice) -> _Band:
    return band._replace(
        columns=band.columns[..., rows],
        weights=band.weights[:, rows],
        patch=band.patch[rows],
        area=band.area[rows],
    )


def _without_planes(band: _Band, unit: np.ndarray) -> _Band:
    """Subtract a plane from each unit; keep the columns that such planes do not explain."""
    if not len(unit):
        return band
    number = int(unit.max()) + 1
    band = _without_means(band, unit, number)
    for column in (Column.U, Column.V):
        band = _project_out(band, band.columns[:, column], unit, number)
    return band._replace(columns=band.columns[:, : Column.U], terms=Column.U - Column.LEVEL)


def _without_means(band: _Band, group: np.ndarray, number: int) -> _Band:
    return _project_out(band, np.ones_like(band.weights), group[: band.weights.shape[1]], number)


def _project_out(band: _Band, basis: np.ndarray, group: np.ndarray, number: int) -> _Band:
    """Subtract the projection of each group on a basis ``(C, N)``, unless it hardly varies."""
    weight = group_sums(group, band.weights, number)
    total = group_sums(group, band.weights * basis * basis, number)
    product = group_sums(group, (band.weights * basis)[:, None] * band.columns, number)
    factor = product / np.where(total > LEAST_SPREAD * weight, total, np.inf)[:, None]
    return band._replace(
        columns=band.columns - factor.take(group, axis=-1) * basis[:, None],
        fitted=band.fitted + np.count_nonzero(weight > 0, axis=-1),
    )


def _fit_band(
    sums: BandSums, index: int, band: _Band, patches: int, noise: np.ndarray,
    scene_information: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Fit the lines of a band, and set its numbers; return its shares ``(C, patches)``."""
    gram = row_products(band.columns * band.weights[:, None], band.columns)
    if has_scene(band.columns):
        gram[:, SCENE_COLUMNS, SCENE_COLUMNS] += scene_information
    line = fit_line(gram, band.terms, None)
    residual, instrument = (line @ band.columns).swapaxes(0, 1)
    weighted = band.weights * instrument
    product = dot(weighted, band.columns[:, Column.X]), dot(weighted, band.columns[:, Column.Y])
    norm = dot(weighted, instrument)
    squares, shares = zip(
        *(
            _square_sum(group, weighted * residual, weighted * instrument, number)
            for group, number in ((band.patch, patches), (band.area, AREAS))
        ),
        strict=True,
    )
    slope = product[1] / np.where(product[0] == 0, np.inf, product[0])
    numbers = slope, product[0] - noise, norm - noise, *squares, _residual_scale(band, residual)
    sums.bands[:, index, :-2] = np.array(numbers).T
    sums.shares[:, index] = shares[1]
    return np.asarray(shares[0])


def _square_sum(
    group: np.ndarray, products: np.ndarray, norms: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of squared sums over groups, enlarged by leverage, and the norms."""
    both = group_sums(group, np.array([products, norms]), number)
    share = both[1] / np.maximum(both[1].sum(axis=-1, keepdims=True), 1e-300)
    enlarged = both[0] / np.maximum(1 - share, 0.1)
    return dot(enlarged, enlarged), both[1]


def _residual_scale(band: _Band, residual: np.ndarray) -> np.ndarray:
    """Return the robust scales of rows with weight; 0 if there are too few."""
    scale = np.zeros(len(residual))
    for k, weights in enumerate(band.weights):
        weighed = weights > 0
        squares = (weights * residual[k] * residual[k])[weighed]
        count = len(squares)
        free = count - band.fitted[k] - band.terms
        if free >= FEWEST_FREE:
            half = np.sqrt(median(squares[thin(count)])) / GAUSSIAN_MEDIAN
            scale[k] = (half if half > 0 else 1.0) * np.sqrt(count / free)
    return scale


def group_sums(group: np.ndarray, values: np.ndarray, number: int) -> np.ndarray:
    """Sum the last axis of ``(..., N)`` over groups, ``(..., number)``."""
    shape = values.shape[:-1]
    index = group + number * np.arange(int(np.prod(shape)))[:, None]
    return np.bincount(index.ravel(), values.ravel(), index.shape[0] * number).reshape(
        *shape, number
    )
