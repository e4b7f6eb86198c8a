"""The state from which the model of a channel is solved: gains and levels alone, robustly."""

from __future__ import annotations

import numpy as np

from ..illumination import TERMS
from ..robust import GAUSSIAN_MEDIAN
from .channel import Channel
from .groups import group_medians
from .pair_rows import State
from .potentials import Differences, Potentials, potentials
from .robust_lsq import ROUNDS as MOST_ROUNDS
from .spreads import USUAL_GAIN, scored_excess
from .surfaces import ORDERS

LEAST_GAIN_ERROR = 1e-6  # relative: the precision of float32 previews
FEWEST_LOOPS = 3  # to judge the errors of gains by
OUTLIER = 3.0  # standard deviations at which a residual counts at most
MOST_EXCESS = 4.0  # in units of the excess, or the variance, of the median pair
ROUNDS = 30  # of scoring
OTHER_UNIT = 25.0  # robust standard deviations of the log-gains, at least a factor of 7
FEW_ROUNDS = 8  # of levels if surfaces will be solved for: without them they never settle
LEAST_LEVEL_ERROR = 1e-3  # in units of the smallest error: reached by tiles without noise


def initial_state(channel: Channel, reference: np.ndarray) -> tuple[State, float]:
    """Solve for gains from the gains of the pairs, then for levels from their pivots.

    Outlying pairs lose their weight, so one bad tile does not bias its neighbours. Also return the
    excess variance of the gains by which their loops do not close: levels have no part in it,
    because an unmodelled gradient spoils levels alone.
    """
    log_gain, excess, fit = _log_gains(channel)
    level = np.zeros(channel.tiles)
    if channel.offsets_are_free:
        level = _levels(channel, np.exp(log_gain), reference, fit)
    instruments = len(channel.instruments.names)
    shared = np.zeros((instruments, len(TERMS)))
    surface = np.zeros((channel.tiles, len(ORDERS)))
    state = State(
        log_gain,
        level,
        surface,
        shared,
        shared,
        np.zeros(instruments),
        np.zeros(channel.tiles),
        np.zeros(2),
    )
    return state, excess


def reference_levels(channel: Channel) -> np.ndarray:
    """Compute the mean pivot ``(T,)`` of each tile, or tied tiles, over its pairs.

    There levels are nearly independent of the gains. A tile without pairs has its sky level. Tiles
    sharing their level but not their gain have 0, where the level is the offset, as has the model
    without offsets.
    """
    if not channel.offsets_are_free:
        return np.zeros(channel.tiles)
    pairs, tiles, node = channel.pairs, channel.tiles, channel.ties.level
    ends, pivots = node[np.r_[pairs.i, pairs.j]], np.r_[pairs.x, pairs.y]
    count = np.bincount(ends, minlength=tiles)
    total = np.bincount(ends, weights=pivots, minlength=tiles)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan_to_num(channel.sky))
    return np.where(channel.mixed_gains, 0.0, mean[node])


def gain_excess(channel: Channel) -> float:
    """Return the excess variance of the gains by which their loops do not close."""
    return _log_gains(channel)[1]


def tiles_in_other_unit(channel: Channel, log_gain: np.ndarray) -> np.ndarray:
    """Find the tiles ``(T,)`` with a gain far from the gains of most tiles of their component.

    Their data may be scaled to 0..1, or be of another exposure. They say nothing about the scatter
    of the others' gains, nor is theirs drawn from it.
    """
    component, gained = channel.gain_component, channel.gained
    components = int(component.max(initial=-1)) + 1
    median, _ = group_medians(component[gained], log_gain[gained], components)
    distance = np.abs(log_gain - median[component])
    typical, _ = group_medians(component[gained], distance[gained], components)
    scatter = np.maximum(typical[component] / GAUSSIAN_MEDIAN, USUAL_GAIN)
    return np.asarray(gained & (distance > OTHER_UNIT * scatter))


def _log_gains(channel: Channel) -> tuple[np.ndarray, float, Potentials | None]:
    """Solve ``log g_i - log g_j = log a`` for pairs with the measured gain a.

    Return the log-gains, their excess variance, and the fit if there are any pairs.
    """
    pairs, node = channel.pairs, channel.ties.gain
    measured = np.isfinite(pairs.gain) & np.isfinite(pairs.gain_err)
    if not channel.gains_are_free or not measured.any():
        return np.zeros(channel.tiles), 0.0, None
    gain = pairs.gain[measured]
    variance = np.maximum(pairs.gain_err[measured] / gain, LEAST_GAIN_ERROR) ** 2
    i, j = node[pairs.i[measured]], node[pairs.j[measured]]
    differences = Differences(i, j, np.log(gain), 1 / variance)
    fit = potentials(channel.tiles, differences, dissection=channel.dissection)
    # One in each component is held.
    unknowns = int(np.count_nonzero(fit.grounding.free & fit.grounding.joined))
    excess = _excess(fit.residual, variance, pairs.concentration[measured], unknowns)
    return fit.value[node], excess, fit


def _excess(
    residual: np.ndarray, variance: np.ndarray, concentration: np.ndarray, unknowns: int
) -> float:
    """Return the variance per unit of concentration that residuals have beyond their errors.

    It is bounded by a multiple of the excess, or the error, of the median pair, so the pairs of a
    few bad tiles do not set it.
    """
    if len(residual) - unknowns < FEWEST_LOOPS:
        return 0.0
    excess, leverage = 0.0, np.full(len(residual), unknowns / len(residual))
    # Half of the residuals are below the medians of their distributions, and half above.
    expected = residual**2 / (GAUSSIAN_MEDIAN**2 * (1 - leverage))
    usual = np.median((expected - variance) / concentration)
    most = MOST_EXCESS * max(float(usual), float(np.median(variance / concentration)))
    least = float(np.median(variance))
    for _ in range(ROUNDS):
        total = variance + excess * concentration
        squares = np.minimum(residual**2, OUTLIER**2 * total)
        excess = scored_excess(excess, concentration, squares, total, leverage, least)
    return min(excess, most)


def _levels(
    channel: Channel, gain: np.ndarray, reference: np.ndarray, gains: Potentials | None
) -> np.ndarray:
    """Solve ``l_i - l_j = g_j y - g_i x`` at the pivots, with the structure of the gains' fit."""
    pairs, node = channel.pairs, channel.ties.level
    i, j = pairs.i, pairs.j
    difference = gain[j] * (pairs.y - reference[j]) - gain[i] * (pairs.x - reference[i])
    error = np.maximum(gain[j] * pairs.level_err, LEAST_LEVEL_ERROR)
    differences = Differences(node[i], node[j], difference, error**-2.0)
    rounds = FEW_ROUNDS if channel.surface_order else MOST_ROUNDS
    fit = potentials(
        channel.tiles, differences, rounds=rounds, dissection=channel.dissection, other=gains
    )
    return np.asarray(fit.value[node])
