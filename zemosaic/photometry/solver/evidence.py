"""The evidence for a fit: how likely it makes all measurements, whatever its terms are.

The deviance is -2 ln of the likelihood with all terms integrated out, but for a constant. Large
terms agree with anything, and determinants charge them for it (MacKay 1992, Neural Computation 4,
415). Therefore fits without different tiles can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .fit import Fit
from .hierarchy_solver import HierarchySolver
from .pair_rows import Rows
from .surfaces import ORDERS

OWN_ROUNDS = 8  # in which a surface, its size and the weights of its pairs are estimated


def deviance(solver: HierarchySolver, fit: Fit) -> float:
    """Compute the deviance of a fit, with the present weights of the tiles' surfaces.

    Each tile that was left out may have a surface of its own, of any size.
    """
    columns, state, pairs = fit.columns, fit.state, solver.channel.pairs
    priors = solver.priors(columns, fit.spreads)
    total = fit.normal.log_determinant + priors.deviance(*solver.prior_values(columns, state))
    rows = solver.rows(state, columns, fit.spreads)
    for part in rows:
        measured = np.isfinite(part.variance)
        # The levels were measured in the units of their tiles.
        unit = state.log_gain[pairs.i[part.pairs]] + state.log_gain[pairs.j[part.pairs]]
        total += float(np.log(part.variance[measured]).sum() - unit @ measured[:, :-1].sum(axis=1))
    total += _misfit(_chi(rows))
    for tile in np.intersect1d(np.flatnonzero(fit.doubtful), pairs.tiles).tolist():
        total += min(_own_surface(solver, fit, tile), 0.0)
    return total


def _chi(rows: Sequence[Rows]) -> np.ndarray:
    """Return residuals in units of their errors ``(P, 17)``; 0 without a measurement."""
    return np.concatenate([part.residual / np.sqrt(part.variance) for part in rows])


def _scales(chi: np.ndarray) -> np.ndarray:
    """Return the factors ``(P,)`` on the variances of pairs that their residuals show."""
    squares, count = (chi**2).sum(axis=1), np.count_nonzero(chi, axis=1)
    return np.maximum(squares / np.maximum(count, 1), 1.0)


def _misfit(chi: np.ndarray) -> float:
    """Return the deviance of the residuals ``(P, 17)`` of pairs with these factors."""
    scale, count = _scales(chi), np.count_nonzero(chi, axis=1)
    return float(((chi**2).sum(axis=1) / scale + count * np.log(scale)).sum())


def _own_surface(solver: HierarchySolver, fit: Fit, tile: int) -> float:
    """Return the change of the deviance if one tile has a surface of its own, all others held."""
    matrix, chi, size = _rows_of_tile(solver, fit, tile)
    variance, left = np.full(matrix.shape[2], size), chi
    variance[0] = fit.spreads.gain
    for _ in range(OWN_ROUNDS):
        weighted = matrix / _scales(left)[:, None, None]
        information = np.diag(1 / variance) + np.einsum("pra,prb->ab", weighted, matrix)
        # A wild gain makes it so uneven that rounding would leave variances below 0.
        unit = np.sqrt(np.outer(information.diagonal(), information.diagonal()))
        inverse = np.linalg.inv(information / unit) / unit
        terms = inverse @ np.einsum("pra,pr->a", weighted, chi)
        left = chi - matrix @ terms
        change = float((terms**2 / variance + np.log(variance)).sum())
        change += float(np.linalg.slogdet(information)[1])
        variance[1:] = (terms**2 + np.maximum(inverse.diagonal(), 0.0))[1:].mean()
    return change + _misfit(left) - _misfit(chi)


def _rows_of_tile(
    solver: HierarchySolver, fit: Fit, tile: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the equations of all pairs in units of their errors, by the terms of one tile.

    These are the derivatives ``(P, 17, 16)`` by log-gain, level and surface, the residuals
    ``(P, 17)``, and the mean square of its levels' residuals in level units.
    """
    pairs, spreads = solver.channel.pairs, fit.spreads
    active = replace(fit.columns.active, surface=ORDERS > 0)
    excess = spreads.level_excess, spreads.gain_excess
    rows = list(solver.equations.rows(fit.state, active, excess, spreads.level_factor))
    derivatives, squares = [], [np.array([solver.scales.patch_var])]
    for part in rows:
        ends = [end[part.pairs] == tile for end in (pairs.i, pairs.j)]
        first, second = np.split(part.own / np.sqrt(part.variance)[..., None], 2, axis=2)
        derivatives.append(first * ends[0][:, None, None] + second * ends[1][:, None, None])
        levels = np.isfinite(part.variance[:, :-1]) & (ends[0] | ends[1])[:, None]
        squares.append(part.residual[:, :-1][levels] ** 2)
    return np.concatenate(derivatives), _chi(rows), float(np.concatenate(squares).mean())
