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
from .joint_potentials import JointDifferences, JointPotentials, joint_potentials
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

    Returns the separate solutions where levels and gains contradict each other: the levels then
    hold no information on the gains.

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
    fit = _iterate(pairs, start, gain_free, channel.anchor)
    if fit is None or fit.variance is None:
        return gains, levels
    error = np.sqrt(np.fmax(gains.variance, LEAST_GAIN_VARIANCE))
    change = np.abs(fit.value[:, 0] - gains.log_gain) / error
    if not change[gain_free].max() <= SUSPECT_CHI:
        return gains, levels
    joint_gains = replace(
        gains,
        log_gain=np.where(planes, gains.log_gain, fit.value[:, 0]),
        variance=np.where(gain_free, fit.variance[:, 0], gains.variance),
    )
    level = np.where(planes, levels.level, fit.value[:, 1])
    residual = levels.residual.copy()
    residual[without_plane] = pairs.levels(joint_gains.gain, level)[1]
    joint_levels = replace(
        levels,
        level=level,
        variance=np.where(planes, levels.variance, fit.variance[:, 1]),
        residual=residual,
    )
    return joint_gains, joint_levels


def _iterate(
    pairs: _JointPairs, start: np.ndarray, gain_free: np.ndarray, anchor: int | None
) -> JointPotentials | None:
    """Solve and reweight until the gains are steady; None if they diverge.

    `start` ``(T, 2)`` are the log-gains and levels of the separate solutions.
    """
    value, steady = start, False
    for turn in range(ROUNDS):
        last = steady or turn == ROUNDS - 1
        differences = pairs.differences(value)
        fit = joint_potentials(len(value), differences, gain_free, anchor, errors=last)
        change = float(np.abs(fit.value[:, 0]).max())
        if not change < DIVERGENCE:
            return None
        log_gain = fit.value[:, 0] + value[:, 0]
        fit = JointPotentials(np.stack([log_gain, fit.value[:, 1]], axis=1), fit.variance)
        if last:
            return fit
        value, steady = fit.value, change < STEADY
    return None


@dataclass(frozen=True, eq=False)
class _JointPairs:
    """The pairs that gains and levels are solved from.

    Parameters
    ----------
    i, j : ndarray
        ``(P,)`` int tiles of each pair.
    gain, relative_err : ndarray
        ``(P,)`` measured gain and its relative error; where none was measured, the gain of the
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
        """Linearize about log-gains and levels ``(T, 2)``; weight by their residuals.

        Pairs with a suspect have the least weight. The errors of gains and of levels are enlarged
        to the scatter of their residuals.
        """
        log_gain, level = value.T
        gain = np.exp(log_gain)
        lever, residual = self.levels(gain, level)
        # In the mean unit of both tiles, so that swapping them changes nothing.
        unit = np.sqrt(gain[self.i] * gain[self.j])
        level_err = np.maximum(unit * self.level_err / np.sqrt(self.gain), unit * MIN_LEVEL_ERROR)
        log_ratio = np.log(self.gain) - (log_gain[self.i] - log_gain[self.j])
        gain_chi, level_chi = np.abs(log_ratio / self.relative_err), np.abs(residual / level_err)
        weight = self.trusted * tukey_weights(level_chi)
        weight[self.measured] *= tukey_weights(gain_chi[self.measured])
        root = np.sqrt(np.maximum(weight, LEAST_WEIGHT))
        gain_scale = robust_scale(gain_chi[self.measured & self.trusted])
        level_scale = robust_scale(level_chi[self.trusted])
        return JointDifferences(
            i=self.i,
            j=self.j,
            log_ratio=log_ratio,
            log_ratio_err=self.relative_err * gain_scale / root,
            level=lever[:, 1] - lever[:, 0],
            level_err=level_err * level_scale / root,
            # The unit changes with the gains, hence a common factor on all gains has no effect.
            lever=lever + np.array([0.5, -0.5]) * residual[:, None],
        )
