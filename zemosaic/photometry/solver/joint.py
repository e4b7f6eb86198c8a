"""Gains and levels of the tiles together.

Levels measured at bright and at dark pivots constrain the gains as well. Each kind of measurement
counts as much as its own loops close: a gradient that is not modelled spoils levels alone and must
not bias the gains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .channel import MOST_TILES, Channel
from .gains import MIN_RELATIVE_ERROR, GainSolution
from .gauge import in_reference_group
from .joint_potentials import GAIN, LEVEL, JointDifferences, joint_potentials
from .levels import MIN_LEVEL_ERROR, LevelSolution
from .robust_lsq import LEAST_WEIGHT, robust_scale, tukey_weights
from .suspects import SUSPECT_CHI

ROUNDS = 40  # at most
STEADY = 1e-11  # convergence: largest change of a log-gain
DIVERGENCE = 1.0  # change of a log-gain beyond which the rounds do not converge
LEAST_GAIN_VARIANCE = 1e-12  # of a log-gain, to judge its change by


def refine_jointly(
    channel: Channel,
    gains: GainSolution,
    levels: LevelSolution,
    planes: np.ndarray,
    suspect: np.ndarray,
) -> tuple[GainSolution, LevelSolution]:
    """Solve for gains and levels together in the components without planes.

    If levels and gains contradict each other, return the separate solutions: the levels then hold
    no information on the gains.

    Parameters
    ----------
    channel : Channel
        Pairs, and the anchor.
    gains, levels : GainSolution, LevelSolution
        The separate solutions.
    planes, suspect : ndarray
        ``(T,)`` bool: tiles with a plane, and suspects. Suspects keep their gains.

    Returns
    -------
    GainSolution, LevelSolution
    """
    tied = in_reference_group(gains.group, channel.component, channel.anchor)
    gain_free = ~planes & tied & ~suspect
    both_free = channel.gains_are_free and channel.offsets_are_free
    if not both_free or channel.tiles > MOST_TILES or not gain_free.any():
        return gains, levels
    without_plane = ~planes[channel.pairs.i]
    pairs = _JointPairs.of(channel, without_plane, gains, levels.reference, suspect)
    start = np.stack([gains.log_gain, levels.level], axis=1)
    fit = _iterate(pairs, start, gain_free, channel)
    if fit is None or not _agrees(fit, gains, gain_free):
        return gains, levels
    level = np.where(planes, levels.level, fit.value[:, LEVEL])
    gains = replace(
        gains,
        log_gain=np.where(planes, gains.log_gain, fit.value[:, GAIN]),
        variance=np.where(gain_free, fit.variance[:, GAIN], gains.variance),
    )
    residual = levels.residual.copy()
    residual[without_plane] = pairs.levels(gains.gain, level)[1]
    variance = np.where(planes, levels.variance, fit.variance[:, LEVEL])
    return gains, replace(levels, level=level, variance=variance, residual=residual)


@dataclass(frozen=True, eq=False)
class _JointFit:
    """Log-gains and levels ``(T, 2)``, and their variances."""

    value: np.ndarray
    variance: np.ndarray


def _iterate(
    pairs: _JointPairs, start: np.ndarray, gain_free: np.ndarray, channel: Channel
) -> _JointFit | None:
    """Solve and reweight until the gains are steady; None if they diverge.

    `start` ``(T, 2)`` are the log-gains and levels of the separate solutions.
    """
    value, steady = start, False
    for _ in range(ROUNDS):
        differences = pairs.differences(value)
        fit = joint_potentials(len(value), differences, gain_free, channel.anchor, channel.ties)
        change = float(np.abs(fit.value[:, GAIN]).max())
        if not change < DIVERGENCE:
            return None
        log_gain = value[:, GAIN] + fit.value[:, GAIN]
        value = np.stack([log_gain, fit.value[:, LEVEL]], axis=1)
        if steady:
            break
        steady = change < STEADY  # one more round, for the errors
    return _JointFit(value, fit.variance())


def _agrees(fit: _JointFit, gains: GainSolution, gain_free: np.ndarray) -> bool:
    """Whether no free gain moves from the separate solution by more than `SUSPECT_CHI` errors."""
    error = np.sqrt(np.fmax(gains.variance, LEAST_GAIN_VARIANCE))
    change = np.abs(fit.value[:, GAIN] - gains.log_gain) / error
    return bool(change[gain_free].max() <= SUSPECT_CHI)


@dataclass(frozen=True, eq=False)
class _JointPairs:
    """The pairs that gains and levels are solved from.

    Parameters
    ----------
    i, j : ndarray
        ``(P,)`` int tiles of each pair.
    gain, relative_err : ndarray
        ``(P,)`` measured gain and its relative error; if none was measured, the gain of the
        separate solution and infinity.
    lever : ndarray
        ``(P, 2)`` pivots above the reference levels of both tiles, in ADU.
    level_err : ndarray
        ``(P,)`` in ADU of tile j.
    measured, trusted : ndarray
        ``(P,)`` bool: pairs with a measured gain, and pairs without a suspect.
    """

    i: np.ndarray
    j: np.ndarray
    gain: np.ndarray
    relative_err: np.ndarray
    lever: np.ndarray
    level_err: np.ndarray
    measured: np.ndarray
    trusted: np.ndarray

    @classmethod
    def of(
        cls,
        channel: Channel,
        chosen: np.ndarray,
        gains: GainSolution,
        reference: np.ndarray,
        suspect: np.ndarray,
    ) -> _JointPairs:
        """Collect the chosen pairs ``(all pairs,)`` of a channel."""
        pairs = channel.pairs
        i, j = pairs.i[chosen], pairs.j[chosen]
        gain, gain_err = pairs.gain[chosen], pairs.gain_err[chosen]
        measured = np.isfinite(gain) & np.isfinite(gain_err)
        gain = np.where(measured, gain, np.exp(gains.log_gain[i] - gains.log_gain[j]))
        relative_err = np.maximum(gain_err / gain, MIN_RELATIVE_ERROR)
        return cls(
            i=i,
            j=j,
            gain=gain,
            relative_err=np.where(measured, relative_err, np.inf),
            lever=np.stack([pairs.x[chosen] - reference[i], pairs.y[chosen] - reference[j]]).T,
            level_err=pairs.level_err[chosen],
            measured=measured,
            trusted=~(suspect[i] | suspect[j]),
        )

    def levels(self, gain: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return corrected levers ``(P, 2)`` and residuals of the levels ``(P,)`` in ADU."""
        lever = np.stack([gain[self.i] * self.lever[:, 0], gain[self.j] * self.lever[:, 1]])
        return lever.T, lever[1] - lever[0] - (level[self.i] - level[self.j])

    def differences(self, value: np.ndarray) -> JointDifferences:
        """Linearize about log-gains and levels ``(T, 2)``, with errors that fit the residuals."""
        log_gain, level = value.T
        gain = np.exp(log_gain)
        lever, residual = self.levels(gain, level)
        # In the mean unit of both tiles, so that swapping them changes nothing.
        unit = np.sqrt(gain[self.i] * gain[self.j])
        level_err = np.maximum(unit * self.level_err / np.sqrt(self.gain), unit * MIN_LEVEL_ERROR)
        log_ratio = np.log(self.gain) - (log_gain[self.i] - log_gain[self.j])
        log_ratio_err, level_err = self._robust_errors(log_ratio, residual, level_err)
        return JointDifferences(
            i=self.i,
            j=self.j,
            log_ratio=log_ratio,
            log_ratio_err=log_ratio_err,
            level=lever[:, 1] - lever[:, 0],
            level_err=level_err,
            # The unit changes with the gains, hence a common factor on all gains has no effect.
            lever=lever + np.array([0.5, -0.5]) * residual[:, None],
        )

    def _robust_errors(
        self, log_ratio: np.ndarray, residual: np.ndarray, level_err: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return errors of log-ratios and levels ``(P,)``, enlarged to their scatter.

        Those of outliers are larger still, those of pairs with a suspect the largest.
        """
        gain_chi, level_chi = np.abs(log_ratio / self.relative_err), np.abs(residual / level_err)
        weight = self.trusted * tukey_weights(level_chi)
        weight[self.measured] *= tukey_weights(gain_chi[self.measured])
        root = np.sqrt(np.maximum(weight, LEAST_WEIGHT))
        gain_scale = robust_scale(gain_chi[self.measured & self.trusted])
        level_scale = robust_scale(level_chi[self.trusted])
        return self.relative_err * gain_scale / root, level_err * level_scale / root
