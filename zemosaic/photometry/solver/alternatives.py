"""Fits tried beside the first one: with a glow, and with a bias of each tile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from .evidence import deviance
from .first_sizes import first_own_bias
from .fit import Fit
from .hierarchy_solver import HierarchySolver
from .spreads import CURVATURE_CLASS, Spreads, scored_variance

CLEAR = 5.0  # standard errors, under the hypothesis of none, of a class that is no chance
#: Of the deviance, in which equal skies are not far likelier than skies that differ: curvature of F
#: within patches, which no model has, changes it as well.
MARGIN = 30.0
ERROR_GROWTH = 1.25  # of the gains, if skies may differ, from which on they hang on equal skies
FEWEST_LEFT = 5  # tiles: fewer always agree
FIRST_GLOW = 4.0  # variance of a glow to try, in variances of levels
GAIN_MISFIT = 0.5  # by which a glow may enlarge the mean square of the gains' residuals
GAIN_GROWTH = 2.0  # factor by which it may enlarge the variance of the gains without being likelier


def with_own_biases(solver: HierarchySolver, fit: Fit, first: Spreads) -> Fit:
    """Fit again with a bias of each tile, and return the better fit.

    An illumination changes the light of a tile by more if its sky is brighter. Without biases of
    their own, surfaces of second order, a glow and wrong gains together describe this nearly as
    well. Therefore the sizes are estimated anew, from small orders above the first. Where gains
    are known better only if all skies are equal, the measurements have to say that they are.
    """
    found, tails = fit.spreads, solver.tails.copy()
    if not found.log_flat.any() or len(solver.channel.pairs.tiles) < FEWEST_LEFT:
        return fit
    most = np.where(np.arange(4) < 1, np.inf, solver.scales.patch_var)
    begin = first.replace(
        own_bias=first_own_bias(solver, fit.state),
        surface=np.minimum(first.surface, most),
        glow=found.glow,
    )
    with suppress(np.linalg.LinAlgError):
        again = solver.fit(fit.state, begin)
        if again.spreads.level_excess > 0:  # it may be that of an earlier state
            again = solver.fit(again.state, again.spreads.replace(level_excess=0.0))
        change = _change_of_deviance(solver, again, fit)
        hangs = _gain_error(solver, again) > ERROR_GROWTH * _gain_error(solver, fit)
        better = change < (MARGIN if hangs else 0.0) and not _describes_structure(solver, again)
        if better and again.columns.active.own_bias and (hangs or _has_own_biases(solver, again)):
            return again
    solver.tails = tails  # the search for contradictions looks at them
    return fit


def _describes_structure(solver: HierarchySolver, again: Fit) -> bool:
    """Whether biases of the tiles are made of structure smaller than a tile.

    Then surfaces are so too, or biases larger than the light leave scatter that nothing explains.
    """
    found = again.spreads
    return found.is_rough or (found.level_excess > 0 and found.own_bias > solver.scales.light**2)


def _gain_error(solver: HierarchySolver, fit: Fit) -> float:
    """Return the median standard error of the log-gains about the mean of their prior."""
    variance = fit.normal.variance(solver.prior_means(fit.columns))
    solved = np.unique(fit.columns.index[fit.columns.has_gain, 0])
    return float(np.sqrt(np.median(variance[solved]))) if len(solved) else 0.0


def _has_own_biases(solver: HierarchySolver, fit: Fit) -> bool:
    """Whether biases of the tiles are larger than their errors."""
    variance = fit.normal.variance(solver.prior_means(fit.columns))
    errors, ties = fit.columns.of_kind(variance)[:, -1], solver.channel.ties
    own = (errors > 0) & ~fit.apart & (ties.level == np.arange(len(errors)))
    return scored_variance(fit.spreads.own_bias, fit.state.own_bias[own] ** 2, errors[own])[1]


def _change_of_deviance(solver: HierarchySolver, again: Fit, fit: Fit) -> float:
    """Return the deviance of a second fit minus that of the first.

    Surfaces with long tails are not charged for these.
    """
    tails, solver.tails = solver.tails, np.ones_like(solver.tails)
    change = deviance(solver, again) - deviance(solver, fit)
    solver.tails = tails
    return change


def without_chance(solver: HierarchySolver, fit: Fit) -> Fit:
    """Fit again without an illumination, or a glow, that may be chance."""
    names = [name for name in ("log_flat", "glow") if _may_be_chance(solver, fit, name)]
    if names:
        with suppress(np.linalg.LinAlgError):
            return solver.fit(fit.state, fit.spreads.replace(**dict.fromkeys(names, np.zeros(3))))
    return fit


def _may_be_chance(solver: HierarchySolver, fit: Fit, name: str) -> bool:
    """Whether the illumination or the glow is no larger than its errors allow by chance.

    Surfaces of all tiles lean towards a false one, and bend a mosaic of many tiles. In few it bends
    little, and light that they share must not hide a bad one. Slopes are no evidence.
    """
    terms, variances = getattr(fit.columns.active, name), getattr(fit.spreads, name)
    if solver.channel.is_small or not terms.any():
        return False
    flat, glow = fit.columns.of_shared_terms(fit.normal.shared_inverse.diagonal())
    errors, squares = glow if name == "glow" else flat, getattr(fit.state, name)[:, terms] ** 2
    kinds = CURVATURE_CLASS[terms]
    for kind in np.unique(kinds[kinds >= 0]).tolist():
        own = kinds == kind
        if scored_variance(variances[kind], squares[:, own], errors[:, own], least=CLEAR)[1]:
            return False
    return True


def with_glow(solver: HierarchySolver, fit: Fit, first: Spreads) -> Fit:
    """Fit again with a glow, and return the better fit.

    A glow is nearly an illumination, or a surface that all tiles share. It is tried where there is
    either, or where levels remain unexplained.
    """
    found = fit.spreads
    shared = found.log_flat.any() and not _may_be_chance(solver, fit, "log_flat")
    if not (shared or found.surface[1:].any() or found.level_excess > 0):
        return fit
    size, tails = max(found.level_excess, FIRST_GLOW * solver.scales.patch_var), solver.tails.copy()
    with suppress(np.linalg.LinAlgError):
        many = not solver.channel.is_small
        gain = first.gain if many else found.gain
        begin = found.replace(gain=gain, glow=np.full(3, size), level_excess=0.0)
        again = solver.fit(fit.state, begin)
        if explains_more(again, fit, lambda: many and _change_of_deviance(solver, again, fit) < 0):
            return again
    solver.tails = tails  # the search for contradictions looks at them
    return fit


def explains_more(again: Fit, fit: Fit, is_likelier: Callable[[], bool]) -> bool:
    """Whether a second fit halves the excess of the levels, and does not spoil the gains.

    It has a smooth glow, or none: then the sizes alone have found a better state. A glow that
    leaves the surfaces rough is made of their structure. In few tiles, a glow and gains that
    scatter far more than before can explain any levels; of many tiles the fit has to be likelier.
    """
    found, before = again.spreads, fit.spreads
    more = found.level_excess <= before.level_excess / 2
    more &= found.glow[0] > 0 or (not found.glow.any() and before.level_excess > 0)
    more &= not found.is_rough and _gain_misfit(again) < _gain_misfit(fit) + GAIN_MISFIT
    return bool(more and (found.gain < GAIN_GROWTH * before.gain or is_likelier()))


def _gain_misfit(fit: Fit) -> float:
    """Return the mean square of the gains' residuals in units of their errors."""
    chi = fit.residuals.gain_chi
    return float(np.square(chi).sum() / max(np.count_nonzero(chi), 1))
