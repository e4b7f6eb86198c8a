"""The gains of a pair in two bands of scales, and the levels of both tiles by area."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...robust import GAUSSIAN_MEDIAN
from ..algebra import dot, fit_line, median, row_products, thin
from ..layout import AREAS, BandSums, Column, Lattice, LineFit, SampleArrays, has_scene
from .irls import SCENE_COLUMNS

FEWEST_FREE = 3  # residuals beyond the number of fitted terms, for a robust scale


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
    shares /= np.maximum(shares.sum(axis=-1, keepdims=True), 1e-300)
    sums.bands[..., -2] = dot(shares, shares).T
    sums.bands[..., -1] = dot(shares[0], shares[1])[:, None]
    blocks = len(samples.u)
    weights, area = fit.weights[:, None, :blocks], rows.area[:blocks]
    place = np.broadcast_to(np.array([samples.u, samples.v]), (len(weights), 2, blocks))
    values = np.concatenate([place, np.stack([samples.x, samples.y], axis=1)], axis=1)
    total = group_sums(area, weights, AREAS)
    mean = group_sums(area, weights * values, AREAS) / np.where(total > 0, total, 1)
    sums.levels[:] = np.concatenate([mean, total], axis=1).swapaxes(1, 2)
    return sums


class _Rows(NamedTuple):
    """Area ``(R,)`` of each row, unit ``(B,)`` of each block, area and patch of each unit."""

    area: np.ndarray
    unit: np.ndarray
    unit_area: np.ndarray
    unit_patch: np.ndarray


class _Band(NamedTuple):
    """Rows of a band: differences from the means of their unit or area.

    `means` ``(C,)`` is the number of means that were subtracted, `terms` that of the line.
    """

    columns: np.ndarray
    weights: np.ndarray
    patch: np.ndarray
    area: np.ndarray
    means: np.ndarray
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
    unit = row * lattice.units_u + column
    unit_patch = np.zeros(len(every_row), dtype=np.intp)
    unit_patch[unit] = samples.patch[: len(unit)]
    area_of_rows = np.concatenate([area, area[samples.cell_block]])
    return _Rows(area_of_rows, unit, _area(lattice, every_column, every_row), unit_patch)


def _area(lattice: Lattice, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return the areas of units."""
    down = row * lattice.areas_v // lattice.units_v
    return np.asarray(down * lattice.areas_u + column * lattice.areas_u // lattice.units_u)


def _split_bands(samples: SampleArrays, fit: LineFit, rows: _Rows) -> tuple[_Band, _Band]:
    """Split the rows into the small and the middle band."""
    blocks, none, terms = len(samples.u), np.zeros(len(fit.slope)), Column.V + 1 - Column.LEVEL
    every = _Band(
        fit.design, fit.weights, samples.patch, rows.area, none,
        fit.design.shape[1] - Column.LEVEL,
    )  # fmt: skip
    if not has_scene(fit.design):
        return _some_rows(every, slice(0), terms), every
    of_blocks = _some_rows(every, slice(blocks), every.terms)
    if samples.lattice.unit_blocks == 1:
        return _some_rows(every, slice(blocks, None), terms), _differences(of_blocks, rows.area)
    units = len(rows.unit_area)
    small = _differences(of_blocks._replace(terms=terms), rows.unit, units)
    mean, total = _group_means(of_blocks, rows.unit, units)
    middle = every._replace(columns=mean, weights=total, patch=rows.unit_patch, area=rows.unit_area)
    return small, _differences(middle, rows.unit_area)


def _some_rows(band: _Band, rows: slice, terms: int) -> _Band:
    columns, weights, patch, area = (array[..., rows] for array in band[:4])
    return _Band(columns, weights, patch, area, band.means, terms)


def _group_means(band: _Band, group: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weighted means ``(C, K, number)`` and weights ``(C, number)`` of groups."""
    total = group_sums(group, band.weights, number)
    sums = group_sums(group, band.weights[:, None] * band.columns, number)
    return sums / np.where(total > 0, total, 1)[:, None], total


def _differences(band: _Band, group: np.ndarray, number: int = AREAS) -> _Band:
    """Subtract the weighted means of groups."""
    group = group[: band.columns.shape[-1]]
    mean, total = _group_means(band, group, number)
    means = np.count_nonzero(total > 0, axis=-1)
    return band._replace(columns=band.columns - mean.take(group, axis=-1), means=means)


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
    """Return the robust scales of rows that have weight; 0 where there are too few."""
    scale = np.zeros(len(residual))
    for k, weights in enumerate(band.weights):
        weighed = weights > 0
        squares = (weights * residual[k] * residual[k])[weighed]
        count = len(squares)
        free = count - band.means[k] - band.terms
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
