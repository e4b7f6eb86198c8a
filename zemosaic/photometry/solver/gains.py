"""Gains of the tiles from the gains of their pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .channel import Channel, spread
from .potentials import Differences, potentials

MIN_RELATIVE_ERROR = 1e-6  # of the gain of a pair: the precision of float32 previews


@dataclass(frozen=True, eq=False)
class GainSolution:
    """Gains of the tiles, solved for from measured gains alone.

    Parameters
    ----------
    log_gain, variance : ndarray
        ``(T,)`` logarithms of the gains, and their variances.
    group : ndarray
        ``(T,)`` int: tiles joined by pairs with a measured gain, or tied.
    residual, chi : ndarray
        ``(P,)`` residual of each pair's log-gain, and its absolute value in units of its error;
        NaN if no gain was measured.
    """

    log_gain: np.ndarray
    variance: np.ndarray
    group: np.ndarray
    residual: np.ndarray
    chi: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """Gains ``(T,)``."""
        return np.exp(self.log_gain)


def solve_gains(channel: Channel, planes: np.ndarray) -> GainSolution:
    """Solve ``log g_i - log g_j = log a`` for pairs with the measured gain a.

    The mean gain of each group is 1, even if pairs without a measured gain join groups.

    Parameters
    ----------
    channel : Channel
        Pairs, and the anchor.
    planes : ndarray
        ``(T,)`` bool: tiles with a plane; their pairs contribute the gain fitted with a plane.
    """
    pairs = channel.pairs
    with_plane = planes[pairs.i]
    gain = np.where(with_plane, pairs.plane_gain, pairs.gain)
    gain_err = np.where(with_plane, pairs.plane_gain_err, pairs.gain_err)
    measured = np.isfinite(gain) & np.isfinite(gain_err)
    i, j, gain = pairs.i[measured], pairs.j[measured], gain[measured]
    relative_err = np.maximum(gain_err[measured] / gain, MIN_RELATIVE_ERROR)
    node, anchor = channel.ties.gain, channel.anchor
    differences = Differences(node[i], node[j], np.log(gain), relative_err**-2.0)
    fit = potentials(channel.tiles, differences, anchor if anchor is None else node[anchor])
    return GainSolution(
        log_gain=fit.value[node],
        variance=fit.variance[node],
        group=channel.ties.gain_components(i, j),
        residual=spread(fit.residual, measured),
        chi=spread(np.abs(fit.residual) / relative_err, measured),
    )
