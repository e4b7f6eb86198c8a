"""Estimation of the sizes of the classes of terms from a solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np

from .bordered import Bordered
from .channel_pairs import ChannelPairs
from .columns import Columns
from .pair_rows import Rows, State
from .spreads import (
    CUBICS,
    CURVATURE_CLASS,
    LEAST_TREND_EVIDENCE,
    SURFACE_CLASS,
    USUAL_GAIN,
    Spreads,
    scored_excess,
    scored_variance,
    tail_weights,
)

SETTLED = 0.02  # relative change of the variances, from which on they are kept
LEAST_GAIN_SPREAD = 0.01**2  # variance of log-gains at least
TRUSTED = 0.1  # least weight of a pair whose residuals count
UNCHANGED_LEVELS = 256  # levels without other scatter, as the weight of the measured variances


class Learner:
    """Estimates spreads from the solution of a round.

    Parameters
    ----------
    columns : Columns
        The terms that were solved for.
    state : State
        Their values.
    normal : Bordered
        The factorized normal equations.
    means : ndarray
        ``(N, m)`` derivatives of the means of the priors by the last m shared terms.
    tails : ndarray
        ``(T, 4)`` weights of each tile in each class of surfaces; changed.
    sound : ndarray
        ``(T,)`` bool: tiles whose terms count.
    usual_bias : float
        Variance of the tiles' biases in a usual night.
    damping : float
        Part of a step by which variances change.
    drops : bool
        Whether classes that the data do not show are left out.
    drops_highest : bool
        Whether this holds for the highest order of surfaces.
    """

    def __init__(
        self,
        columns: Columns,
        state: State,
        normal: Bordered,
        means: np.ndarray,
        tails: np.ndarray,
        sound: np.ndarray,
        usual_bias: float,
        damping: float,
        drops: bool,
        drops_highest: bool,
    ) -> None:
        self.columns, self.state, self.normal, self.tails = columns, state, normal, tails
        self.means, self.usual_bias = means, usual_bias
        self.sound, self.damping, self.drops = sound, damping, drops
        self.drops_highest = drops_highest

    def shared(self, spreads: Spreads) -> Spreads:
        """Estimate the classes of the shared terms."""
        active = self.columns.active
        errors_of_all = self.normal.shared_inverse.diagonal()
        flat_errors, glow_errors = self.columns.of_shared_terms(errors_of_all)
        log_flat, glow = (
            self._shared_classes(variances, values[:, terms], errors, CURVATURE_CLASS[terms])
            for variances, values, errors, terms in (
                (spreads.log_flat, self.state.log_flat, flat_errors, active.log_flat),
                (spreads.glow, self.state.glow, glow_errors, active.glow),
            )
        )
        cubic, cubics = 0.0, CUBICS[active.log_flat]
        if cubics.any():
            squares = self.state.log_flat[:, CUBICS] ** 2
            cubic, _ = scored_variance(spreads.log_flat[1], squares, flat_errors[:, cubics])
        trend = spreads.trend * bool(self.columns.trends)
        if trend:
            squares, errors = self.state.trend**2, errors_of_all[-self.columns.trends :]
            score = scored_variance(trend, squares, errors, least=LEAST_TREND_EVIDENCE)
            trend = self._next(trend, *score, self.drops)
        # In a smooth illumination no degree is larger than a lower one.
        log_flat = np.maximum.accumulate(log_flat[::-1])[::-1]
        return spreads.replace(log_flat=log_flat, glow=glow, cubic=cubic, trend=trend)

    def set_tails(self, spreads: Spreads) -> None:
        """Set the weights of the tiles in the classes of surfaces."""
        active = self.columns.active.surface
        for kind in np.unique(SURFACE_CLASS[active]).tolist():
            squares = self.state.surface[:, active & (kind == SURFACE_CLASS)] ** 2
            self.tails[:, kind] = tail_weights(squares, spreads.surface[kind])

    def of_tiles(self, spreads: Spreads, log_gain: np.ndarray) -> Spreads:
        """Estimate the classes of the tiles' own terms; `log_gain` ``(T,)`` have mean 0."""
        columns, state = self.columns, self.state
        error = columns.of_kind(self.normal.variance(self.means))
        tile = np.arange(len(columns.index))
        own = np.append(columns.owner, -1)[columns.index[:, :2]] == tile[:, None]
        own &= self.sound[:, None]
        gain, surface = spreads.gain, spreads.surface.copy()
        if own[:, 0].any():
            gain = self._gain(gain, log_gain[own[:, 0]], error[own[:, 0], 0])
        if not own[:, 1].any():
            return spreads.replace(gain=gain)
        kinds = SURFACE_CLASS[columns.active.surface]
        values = state.surface[:, columns.active.surface]
        self.set_tails(spreads)
        for kind in np.unique(kinds).tolist():
            members = np.flatnonzero(kinds == kind)
            squares = values[:, members] ** 2
            chosen = own[:, 1]
            score = scored_variance(
                surface[kind], squares[chosen], error[:, 2 + members][chosen],
                self.tails[chosen, kind][:, None],
            )  # fmt: skip
            drops = self.drops_highest if kind == SURFACE_CLASS[-1] else self.drops
            surface[kind] = self._next(surface[kind], *score, drops)
        # In a smooth surface no order is larger than the order below, but the second order need not
        # come with a gradient.
        surface[1:] = np.minimum.accumulate(surface[1:])
        spreads = spreads.replace(gain=gain, surface=surface)
        if not columns.active.own_bias:
            return spreads.replace(own_bias=0.0)
        return spreads.replace(own_bias=self._own_bias(spreads.own_bias, own[:, 1], error[:, -1]))

    def _own_bias(self, variance: float, chosen: np.ndarray, errors: np.ndarray) -> float:
        """Estimate the variance of the biases of chosen tiles ``(T,)``, with variances ``(T,)``.

        They are never left out: gains that hang on equal skies would seem too sure.
        """
        if not self.drops:
            return variance
        squares = self.state.own_bias[chosen] ** 2
        scored, _ = scored_variance(variance, squares, errors[chosen], usual=self.usual_bias)
        return self._next(variance, scored)

    def _gain(self, variance: float, log_gain: np.ndarray, errors: np.ndarray) -> float:
        """Estimate the variance of log-gains ``(n,)`` with these variances of their errors.

        Overlaps that show no gains do not show equal ones.
        """
        scored, _ = scored_variance(variance, log_gain**2, errors, usual=USUAL_GAIN**2)
        return max(self._next(variance, scored), LEAST_GAIN_SPREAD)

    def excess(
        self,
        spreads: Spreads,
        rows: Sequence[Rows],
        weights: np.ndarray,
        pairs: ChannelPairs,
    ) -> Spreads:
        """Estimate the excess variances of levels, and of gains if it is smaller than before.

        An illumination that was not known then spoils the loops of the gains. A larger one is no
        evidence: levels that the model does not describe contradict the gains.

        Parameters
        ----------
        spreads : Spreads
            The present ones.
        rows : sequence of Rows
            The equations of the pairs.
        weights : ndarray
            ``(P,)`` of the pairs.
        pairs : ChannelPairs
            The likeness of their patches, and their concentration.
        """
        squares, variance, leverage = self._scatter(rows, weights)
        trusted = pairs.trusted & (weights > TRUSTED)
        level, gain = spreads.level_excess, spreads.gain_excess
        levels = np.isfinite(variance[:, :-1]) & trusted[:, None]
        alike = np.broadcast_to(pairs.alike[:, None], levels.shape)[levels]
        level = self._scored(
            level, np.ones(levels.sum()), level * alike,
            *(values[:, :-1][levels] for values in (squares, variance, leverage)),
        )  # fmt: skip
        level_factor = 1.0
        active = self.columns.active
        if (active.log_flat.any() or active.glow.any()) and not level > 0:
            scatter = pairs.repetition[:, None] * squares[:, :-1] / variance[:, :-1]
            free = 1 - leverage[:, :-1]
            level_factor = self._level_factor(spreads.level_factor, scatter[levels], free[levels])
        gains = np.isfinite(variance[:, -1]) & trusted
        if gain > 0:
            factor = pairs.concentration[gains]
            numbers = (values[gains, -1] for values in (squares, variance, leverage))
            gain = min(gain, self._scored(gain, factor, gain * factor, *numbers))
        return spreads.replace(level_excess=level, gain_excess=gain, level_factor=level_factor)

    def _level_factor(self, present: float, scatter: np.ndarray, free: np.ndarray) -> float:
        """Estimate the factor on the variances of levels if tiles share an illumination or a glow.

        The line through a pair takes its effect on contrast for noise of the levels.

        Parameters
        ----------
        present : float
            The present factor.
        scatter, free : ndarray
            ``(n,)`` squared residuals in units of the variances of single pairs, and the parts
            of these that the fit leaves.
        """
        wanted = (UNCHANGED_LEVELS + present * scatter.sum()) / (UNCHANGED_LEVELS + free.sum())
        return float(present * (min(wanted, 1.0) / present) ** self.damping)

    def _scatter(
        self, rows: Sequence[Rows], weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return weighted squared residuals, variances and leverages ``(P, 17)`` of all rows."""
        _, blocks = self.normal.factor.inverse()
        squares, variance, leverage = np.full((3, len(weights), 17), np.inf)
        for part in rows:
            weight = weights[part.pairs][:, None]
            modelled = self.normal.row_variances(
                part.own,
                part.shared,
                blocks[part.pairs],
                self.normal.factor.system.cliques[part.pairs],
                self.columns.shared_places(part.instruments),
            )
            squares[part.pairs], variance[part.pairs] = part.residual**2 * weight, part.variance
            leverage[part.pairs] = modelled * weight / part.variance
        return squares, variance, leverage

    def _scored(
        self,
        present: float,
        factor: np.ndarray,
        added: np.ndarray | float,
        squares: np.ndarray,
        variance: np.ndarray,
        leverage: np.ndarray,
    ) -> float:
        """Return the next excess variance of rows; variances have the present one `added`."""
        own = variance - added
        least = float(np.median(own)) if len(own) else 0.0
        total = own + present * factor
        changed = scored_excess(present, factor, squares, total, leverage, least)
        if present > 0 and changed > 0:
            changed = present * (changed / present) ** self.damping
        return changed

    def _shared_classes(
        self,
        variances: np.ndarray,
        values: np.ndarray,
        errors: np.ndarray,
        kinds: np.ndarray,
    ) -> np.ndarray:
        """Estimate classes ``(3,)`` from the values ``(Q, n)`` of terms of these kinds.

        Slopes, of kind -1, are no evidence.
        """
        changed = variances.copy()
        for kind in np.unique(kinds[kinds >= 0]).tolist():
            members = kinds == kind
            score = scored_variance(variances[kind], values[:, members] ** 2, errors[:, members])
            changed[kind] = self._next(variances[kind], *score, self.drops)
        return changed

    def _next(
        self, before: float, after: float, evident: bool = True, drops: bool = False
    ) -> float:
        """Return the variance for the next round; 0 leaves its class out."""
        if drops and not evident:
            return 0.0
        return float(before * (after / before) ** self.damping)


def settled(before: Spreads, after: Spreads) -> bool:
    """Whether no size has changed much."""
    old, new = (np.hstack(astuple(spreads)) for spreads in (before, after))
    return bool((np.abs(new - old) <= SETTLED * np.maximum(new, old)).all())
