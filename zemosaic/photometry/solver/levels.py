"""Levels and planes of the tiles from the pivots of their pairs, given the gains."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .channel import Channel, TileFrame
from .gains import GainSolution
from .gauge import subtract_common_slope
from .plane_potentials import PlaneDifferences, plane_potentials
from .potentials import Differences, potentials
from .suspects import SUSPECT_CHI

# Of the difference of a pair, in units of the smallest error (see `Channel`): it is reached only by
# tiles without noise.
MIN_LEVEL_ERROR = 1e-3


@dataclass(frozen=True, eq=False)
class LevelSolution:
    """Corrections of the tiles besides their gains.

    Parameters
    ----------
    reference : ndarray
        ``(T,)`` level of each tile in ADU at which levels are solved for. At its mean pivot they
        are nearly independent of the gains.
    level, variance : ndarray
        ``(T,)`` correction at the reference level and the centre of each tile in ADU, and its
        variance.
    slope : ndarray
        ``(T, 2)`` in ADU per pixel of the tile; 0 without a plane.
    residual, chi : ndarray
        ``(P,)`` residual of each pair's level in ADU; residual of level and tilt in units of
        their errors.
    """

    reference: np.ndarray
    level: np.ndarray
    variance: np.ndarray
    slope: np.ndarray
    residual: np.ndarray
    chi: np.ndarray


def solve_levels(channel: Channel, gains: GainSolution, planes: np.ndarray) -> LevelSolution:
    """Solve ``P_i(p) - P_j(p) = g_j y - g_i x`` for the planes P, at the pivots p.

    In the model without offsets the levels are 0.

    Parameters
    ----------
    channel : Channel
        Pairs, anchor and frame.
    gains : GainSolution
        Gains of the tiles. A pair with an outlying gain has a larger error here as well.
    planes : ndarray
        ``(T,)`` bool: tiles with a plane. All others have a level alone.
    """
    if not channel.offsets_are_free:
        return _without_offsets(channel, gains.gain)
    reference = _reference_levels(channel)
    differences = _differences(channel, gains, reference)
    weight, node = differences.level_err**-2.0, channel.ties.level
    fit = potentials(
        channel.tiles,
        Differences(node[differences.i], node[differences.j], differences.level, weight),
        _anchor_node(channel),
    )
    levels = LevelSolution(
        reference=reference,
        level=fit.value[node],
        variance=fit.variance[node],
        slope=np.zeros((channel.tiles, 2)),
        residual=fit.residual,
        chi=np.abs(fit.residual) / differences.level_err,
    )
    if channel.frame is None or not planes.any():
        return levels
    return _with_planes(channel, channel.frame, levels, planes, differences)


def _reference_levels(channel: Channel) -> np.ndarray:
    """Compute the mean pivot ``(T,)`` of each tile, or tied tiles, over its pairs in ADU.

    A tile without pairs has its sky level. Tiles that share their level but not their gain have
    0, where the level is the offset.
    """
    pairs, tiles, node = channel.pairs, channel.tiles, channel.ties.level
    ends, pivots = node[np.r_[pairs.i, pairs.j]], np.r_[pairs.x, pairs.y]
    count = np.bincount(ends, minlength=tiles)
    total = np.bincount(ends, weights=pivots, minlength=tiles)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan_to_num(channel.sky))
    return np.where(channel.mixed_gains, 0.0, mean[node])


def _anchor_node(channel: Channel) -> int | None:
    return None if channel.anchor is None else int(channel.ties.level[channel.anchor])


def _differences(channel: Channel, gains: GainSolution, reference: np.ndarray) -> PlaneDifferences:
    """Return the differences that the planes of the tiles have to make up for."""
    pairs, gain = channel.pairs, gains.gain
    i, j, gain_i, gain_j = pairs.i, pairs.j, gain[pairs.i], gain[pairs.j]
    factor = np.fmax(gains.chi / SUSPECT_CHI, 1.0)
    return PlaneDifferences(
        i=i,
        j=j,
        level=gain_j * (pairs.y - reference[j]) - gain_i * (pairs.x - reference[i]),
        level_err=np.maximum(gain_j * pairs.level_err * factor, MIN_LEVEL_ERROR),
        tilt=gain_j[:, None] * pairs.y_tilt - gain_i[:, None] * pairs.x_tilt,
        tilt_cov=(gain_j * factor)[:, None, None] ** 2 * pairs.tilt_cov,
        pivot=pairs.pivot,
    )


def _without_offsets(channel: Channel, gain: np.ndarray) -> LevelSolution:
    """Return levels of 0 with the residuals of the pairs."""
    pairs, tiles = channel.pairs, channel.tiles
    return LevelSolution(
        reference=np.zeros(tiles),
        level=np.zeros(tiles),
        variance=np.zeros(tiles),
        slope=np.zeros((tiles, 2)),
        residual=gain[pairs.j] * pairs.y - gain[pairs.i] * pairs.x,
        chi=np.zeros(len(pairs.i)),
    )


def _with_planes(
    channel: Channel,
    frame: TileFrame,
    levels: LevelSolution,
    planes: np.ndarray,
    differences: PlaneDifferences,
) -> LevelSolution:
    """Replace the levels of tiles with planes by a fit of planes to their pairs."""
    with_plane, node = planes[differences.i], channel.ties.level
    of_nodes = replace(differences, i=node[differences.i], j=node[differences.j])
    fit = plane_potentials(of_nodes.of(with_plane), frame.centre, _anchor_node(channel))
    own = fit.planes[node]
    own[:, 0] += np.einsum("tg,tg->t", own[:, 1:], frame.centre - frame.centre[node])
    fitted = subtract_common_slope(channel.component, own, frame.centre)
    if channel.anchor is not None:
        anchored = channel.component == channel.component[channel.anchor]
        fitted[anchored] = own[anchored]
    # From ADU per cell of the grid to ADU per pixel of the tile.
    slope = np.einsum("tg,tgp->tp", fitted[:, 1:], frame.jacobian)
    residual, chi = levels.residual.copy(), levels.chi.copy()
    residual[with_plane], chi[with_plane] = fit.residual, fit.chi
    return replace(
        levels,
        level=np.where(planes, fitted[:, 0], levels.level),
        variance=np.where(planes, fit.level_variance[node], levels.variance),
        slope=np.where(planes[:, None], slope, 0.0),
        residual=residual,
        chi=chi,
    )
