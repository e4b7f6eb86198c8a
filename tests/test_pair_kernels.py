"""The kernels of the equations of pairs, against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zemosaic.photometry import _kernels
from zemosaic.photometry._kernels.pair_derivatives import Derivatives, TileTerms


def random_derivatives(pairs: int, terms: int) -> Derivatives:
    """Return derivatives of pairs with surfaces of some terms."""
    rng = np.random.default_rng(terms)
    levels = rng.normal(size=(4, pairs, 16))
    return Derivatives(*levels, *rng.normal(size=(2, terms, pairs, 16)))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("terms", [0, 2, 5, 9, 14])
def test_products_are_sums_over_the_rows(terms: int) -> None:
    """Of all pairs that are given, at their places, with rows without weight, and no others."""
    pairs, places, width = 5, np.array([7, 0, 3, 2, 8]), 2 * (2 + terms)
    derivatives, rng = random_derivatives(pairs, terms), np.random.default_rng(1)
    precision, residual = rng.uniform(0, 2, (pairs, 17)), rng.normal(size=(pairs, 17))
    precision[rng.random(precision.shape) < 0.3] = 0.0
    blocks, products = np.full((9, width, width), np.nan), np.full((9, width), np.nan)
    _kernels.normal_blocks(places, derivatives, precision, residual, blocks, products)
    matrix = derivatives.matrix()
    for pair, place in enumerate(places):
        expected = np.zeros((width, width + 1))
        for row, weight, value in zip(matrix[pair], precision[pair], residual[pair], strict=True):
            expected += weight * np.outer(row, np.append(row, value))
        np.testing.assert_allclose(blocks[place], expected[:, :-1], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(products[place], expected[:, -1], rtol=1e-12, atol=1e-12)
    others = np.setdiff1d(np.arange(9), places)
    assert np.isnan(blocks[others]).all()
    assert np.isnan(products[others]).all()


def test_the_matrix_has_the_signs_of_differences() -> None:
    """Tile j's level minus tile i's, and i's log-gain minus j's."""
    derivatives = Derivatives(*(np.full((1, 16), k) for k in (2.0, 3.0, 5.0, 7.0)),
                              np.full((1, 1, 16), 11.0), np.full((1, 1, 16), 13.0))  # fmt: skip
    matrix = derivatives.matrix()[0]
    assert (matrix[:16] == [-2, -5, -11, 3, 7, 13]).all()
    assert matrix[16].tolist() == [1, 0, 0, -1, 0, 0]


@pytest.mark.skipif(not _kernels.COMPILED, reason="numpy counts from the end")
@pytest.mark.parametrize("place", [-1, 4])
def test_places_out_of_range_are_refused(place: int) -> None:
    """ValueError, and no write outside the array."""
    blocks, products = np.zeros((4, 4, 4)), np.zeros((4, 4))
    with pytest.raises(ValueError, match="do not fit together"):
        _kernels.normal_blocks(
            np.array([place]), random_derivatives(1, 0), np.ones((1, 17)), np.ones((1, 17)),
            blocks, products,
        )  # fmt: skip


def random_levels(pairs: int, terms: int, tiles: int = 4) -> dict[str, Any]:
    """Return the arguments of `tile_levels` for pairs of some tiles."""
    rng = np.random.default_rng(terms)
    return {
        "tile": rng.integers(0, tiles, pairs), "measured": rng.normal(size=(pairs, 16)),
        "terms": TileTerms(*rng.normal(size=(4, tiles)), rng.normal(size=(tiles, terms))),
        "basis": rng.normal(size=(terms, pairs, 16)), "glow": rng.normal(size=(pairs, 16)),
        "by_level": rng.uniform(0.5, 2, (pairs, 16)),
    }  # fmt: skip


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("terms", [0, 2, 14])
def test_levels_are_corrected_by_the_terms_of_their_tile(terms: int) -> None:
    """``(g (x - x0 - A) + l - b) / F + b + P``, and its derivatives by log g and 1 / F."""
    a = random_levels(7, terms)
    lever, light, value = _kernels.tile_levels(**a)
    for pair, tile in enumerate(a["tile"]):
        gain, reference, offset, bias, coefficients = (values[tile] for values in a["terms"])
        by_gain = gain * (a["measured"][pair] - reference - a["glow"][pair])
        by_level = a["by_level"][pair]
        surface = coefficients @ a["basis"][:, pair]
        np.testing.assert_allclose(lever[pair], by_gain * by_level, rtol=1e-12, atol=1e-12)
        lit = (by_gain + offset - bias) * by_level
        np.testing.assert_allclose(light[pair], lit, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(value[pair], lit + bias + surface, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not _kernels.COMPILED, reason="numpy counts from the end")
@pytest.mark.parametrize("tile", [-1, 4])
def test_tiles_out_of_range_are_refused(tile: int) -> None:
    """ValueError, and no read outside the array."""
    wrong = random_levels(1, 0) | {"tile": np.array([tile])}
    with pytest.raises(ValueError, match="do not fit together"):
        _kernels.tile_levels(**wrong)


@pytest.mark.usefixtures("either_way")
def test_residuals_are_summarized_at_their_pairs() -> None:
    """Means, chi and scatter of the patches with data; NaN and 0 of a pair without any."""
    rng, places = np.random.default_rng(1), np.array([4, 0, 2, 5])
    residual, variance = rng.normal(size=(4, 17)), rng.uniform(0.5, 2, (4, 17))
    variance[0, 3:9] = variance[1, 1:16] = variance[2] = np.inf
    mean, chi = np.full((2, 6), -1.0), np.full((3, 6), -1.0)
    _kernels.pair_residuals(places, residual, variance, mean, chi)
    summary = np.concatenate([mean, chi])
    for number, place in enumerate(places):
        used = np.isfinite(variance[number])
        value, weight = residual[number, :-1][used[:-1]], 1 / variance[number, :-1][used[:-1]]
        expected = [np.nan, np.nan, 0.0, 0.0, 0.0]
        if len(value):
            level = np.average(value, weights=weight)
            squares = (weight * (value - level) ** 2).sum() / max(len(value) - 1, 1)
            expected[::2] = level, abs(level) * np.sqrt(weight.sum()), np.sqrt(squares)
        if used[-1]:
            ratio, error = residual[number, -1], np.sqrt(variance[number, -1])
            expected[1::2] = ratio, abs(ratio) / error
        np.testing.assert_allclose(summary[:, place], expected, rtol=1e-12, atol=1e-7)
    assert (summary[:, [1, 3]] == -1).all()


@pytest.mark.skipif(not _kernels.COMPILED, reason="numpy counts from the end")
@pytest.mark.parametrize("place", [-1, 4])
def test_pairs_out_of_range_are_refused(place: int) -> None:
    """ValueError, and no write outside the array."""
    with pytest.raises(ValueError, match="do not fit together"):
        _kernels.pair_residuals(
            np.array([place]), np.ones((1, 17)), np.ones((1, 17)), np.ones((2, 4)),
            np.ones((3, 4)),
        )  # fmt: skip
