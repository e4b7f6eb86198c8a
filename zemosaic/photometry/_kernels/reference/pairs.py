"""The equations of pairs of tiles: corrected levels, and weighted products."""

from __future__ import annotations

import numpy as np

from ..pair_derivatives import Derivatives, TileTerms


def normal_blocks(
    pairs: np.ndarray, derivatives: Derivatives, precision: np.ndarray, residual: np.ndarray,
    blocks: np.ndarray, products: np.ndarray,
) -> None:  # fmt: skip
    """Compute the part of the normal equations of each of n pairs.

    Parameters
    ----------
    pairs : ndarray
        ``(n,)`` int.
    derivatives : Derivatives
        Derivatives of the rows of these pairs, by m terms.
    precision, residual : ndarray
        ``(n, 17)`` weights of the rows, and the numbers that they shall be.
    blocks : ndarray
        Gets ``(P, m, m)`` weighted products of the derivatives, at these pairs.
    products : ndarray
        Gets ``(P, m)`` weighted products with the residuals.
    """
    matrix = derivatives.matrix()
    weighted = (matrix * precision[..., None]).swapaxes(1, 2)
    blocks[pairs] = weighted @ matrix
    products[pairs] = (weighted @ residual[..., None])[..., 0]


def pair_residuals(
    pairs: np.ndarray, residual: np.ndarray, variance: np.ndarray, mean: np.ndarray,
    chi: np.ndarray,
) -> None:  # fmt: skip
    """Summarize the residuals of each of n pairs.

    Parameters
    ----------
    pairs : ndarray
        ``(n,)`` int.
    residual, variance : ndarray
        ``(n, 17)`` of their rows; the variance is infinite without a measurement.
    mean : ndarray
        ``(2, P)``; gets, at these pairs, the weighted mean residual of the levels and the residual
        of the log-gain, NaN if not measured.
    chi : ndarray
        ``(3, P)``; gets both in units of their errors, and the scatter of the levels in units of
        theirs, 0 if not measured.
    """
    ratio, weight, gain_var = residual[:, -1], 1 / variance[:, :-1], variance[:, -1]
    weighted, total = weight * residual[:, :-1], weight.sum(axis=1)
    product, known = weighted.sum(axis=1), np.where(total > 0, total, 1.0)
    patches = np.count_nonzero(weight, axis=1)
    squares = np.einsum("np,np->n", weighted, residual[:, :-1]) - product**2 / known
    scatter = np.where(patches > 1, squares, 0.0) / np.maximum(patches - 1, 1)
    mean[0, pairs] = np.where(total > 0, product / known, np.nan)
    mean[1, pairs] = np.where(np.isfinite(gain_var), ratio, np.nan)
    chi[0, pairs] = np.abs(product) / np.sqrt(known)
    chi[1, pairs] = np.abs(ratio) / np.sqrt(gain_var)
    chi[2, pairs] = np.sqrt(np.maximum(scatter, 0.0))


def tile_levels(
    tile: np.ndarray, measured: np.ndarray, terms: TileTerms, basis: np.ndarray, glow: np.ndarray,
    by_level: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Correct the levels of one tile of each of n pairs.

    Parameters
    ----------
    tile : ndarray
        ``(n,)`` int.
    measured : ndarray
        ``(n, 16)`` levels in the patches.
    terms : TileTerms
        Of all tiles, with K terms of their surfaces.
    basis : ndarray
        ``(K, n, 16)`` surfaces with one of these terms.
    glow, by_level : ndarray
        ``(n, 16)`` of the instrument; `by_level` is 1 / F.

    Returns
    -------
    lever, light, value : ndarray
        ``(n, 16)``: derivatives of the corrected levels by the log-gain, their part due to light
        without the surface, and the corrected levels.
    """
    lever = terms.gain[tile, None] * (measured - (terms.reference[tile, None] + glow))
    bias = terms.bias[tile, None]
    light = (lever + (terms.offset[tile, None] - bias)) * by_level
    value = light + bias
    for surface, coefficient in zip(basis, terms.coefficients[tile].T, strict=True):
        value += surface * coefficient[:, None]
    return lever * by_level, light, value
