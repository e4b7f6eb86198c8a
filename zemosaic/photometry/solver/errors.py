"""Standard errors of the corrections of tiles, and of the seams between them.

Errors of neighbours are correlated: they share the slow drift of the solution across the mosaic,
which no seam shows.
"""

from __future__ import annotations

import numpy as np

from .channel import Channel
from .columns import counted_tiles
from .fit import Fit
from .robust_lsq import LEAST_WEIGHT
from .surfaces import surface_basis


def tile_errors(channel: Channel, fit: Fit, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the standard errors of log-gains and offsets under the gauge.

    It holds the mean log-gain and the mean level of each component, or the log-gain and the level
    of the anchor, with one factor and one shift of each component. A factor moves an offset in
    proportion to its difference from the held level.

    Parameters
    ----------
    channel : Channel
        Its tiles and pairs.
    fit : Fit
        The fitted model.
    reference : ndarray
        ``(T,)`` level of each tile at which its level was solved for.

    Returns
    -------
    log_gain_err, offset_err : ndarray
        ``(T,)``.
    """
    surface = _surface_derivatives(channel, fit)
    held = _held_shares(channel, fit)
    covariance = _gauge_covariances(channel, fit, surface, held)
    level = fit.state.level + (surface * fit.state.surface[:, fit.columns.active.surface]).sum(1)
    by_gain = -np.exp(fit.state.log_gain) * np.nan_to_num(reference)
    derivative = np.zeros((channel.tiles, 2, 4))
    derivative[:, 0] = [1, 0, -1, 0]
    derivative[:, 1] = [0, 1, 0, -1]
    derivative[:, 1, 0] = by_gain
    derivative[:, 1, 2] = _held_means(channel.component, held[1], level) - level - by_gain
    variance = np.einsum("tfa,tab,tfb->tf", derivative, covariance, derivative)
    doubtful = fit.doubtful
    # As if their pairs had their weight; the drift of the solution is that of their neighbours.
    variance[doubtful] *= LEAST_WEIGHT
    variance[doubtful] += _means_of_sound_neighbours(channel, doubtful, variance)[doubtful]
    if channel.anchor is not None:
        variance[channel.ties.node == channel.ties.node[channel.anchor]] = 0.0  # but for rounding
    errors = np.sqrt(np.maximum(variance, 0.0))
    return errors[:, 0], errors[:, 1]


def _means_of_sound_neighbours(
    channel: Channel, doubtful: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Return the means ``(T, 2)`` of values ``(T, 2)`` over the neighbours that are not doubtful.

    They are 0 for a tile without any.
    """
    pairs = channel.pairs
    tile, other = np.r_[pairs.i, pairs.j], np.r_[pairs.j, pairs.i]
    sound = ~doubtful[other]
    count = np.maximum(np.bincount(tile, sound, channel.tiles), 1)
    sums = [np.bincount(tile, sound * column[other], channel.tiles) for column in values.T]
    return np.stack(sums, axis=1) / count[:, None]


def seam_errors(fit: Fit) -> np.ndarray:
    """Compute the standard errors of the mean differences of corrected tiles in their overlaps.

    Parameters
    ----------
    fit : Fit
        The fitted model.

    Returns
    -------
    ndarray
        ``(P,)``; NaN for a pair without levels.
    """
    blocks, cliques = fit.normal.factor.inverse()[1], fit.normal.factor.system.cliques
    errors = np.full(len(cliques), np.nan)
    for part in fit.rows:
        weight = 1 / part.variance[:, :-1]
        total = weight.sum(axis=1, keepdims=True)
        share = (weight / np.where(total > 0, total, np.nan))[:, None]
        variance = fit.normal.row_variances(
            share @ part.own[:, :-1],
            share @ part.shared[:, :-1],
            blocks[part.pairs],
            cliques[part.pairs],
            fit.columns.shared_places(part.instruments),
        )
        errors[part.pairs] = np.sqrt(np.maximum(variance[:, 0], 0.0))
    return errors


def _held_shares(channel: Channel, fit: Fit) -> np.ndarray:
    """Return the shares ``(2, T)`` of the tiles in the held log-gains and levels."""
    sound = ~fit.doubtful
    # The median level, which is held, hardly depends on tiles that are far off.
    sound |= (np.bincount(channel.component, sound) == 0)[channel.component]
    share = np.stack([counted_tiles(channel, fit.apart), sound]).astype(float)
    for kind, component in enumerate((channel.gain_component, channel.component)):
        if channel.anchor is not None:
            of_anchor = component == component[channel.anchor]
            is_anchor = np.arange(channel.tiles) == channel.anchor
            share[kind] = np.where(of_anchor, is_anchor, share[kind])
        share[kind] /= np.maximum(np.bincount(component, share[kind]), 1)[component]
    return share


def _held_means(component: np.ndarray, share: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return means ``(T,)`` of values ``(T,)`` in the component of each tile."""
    return np.asarray(np.bincount(component, share * values)[component])


def _gauge_covariances(
    channel: Channel, fit: Fit, surface: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """Return the covariances ``(T, 4, 4)`` of log-gain, level, and both held means of each tile.

    `surface` ``(T, K)`` are the derivatives of levels, and `held` ``(2, T)`` the shares in the
    means.
    """
    columns, normal = fit.columns, fit.normal
    values = np.zeros((channel.tiles, 2, columns.index.shape[1]))
    values[:, 0, 0] = values[:, 1, 1] = 1.0
    values[:, 1, 2 : 2 + surface.shape[1]] = surface
    means = np.zeros((columns.size + 1, 2))
    for kind in (0, 1):
        np.add.at(means[:, kind], columns.index, held[kind][:, None] * values[:, kind])
    shared = np.zeros((len(normal.shared_inverse), 2))
    response = np.append(normal.solve(means[:-1], shared)[0], np.zeros((1, 2)), axis=0)
    across = values @ response[columns.index]
    covariance = np.zeros((channel.tiles, 4, 4))
    covariance[:, :2, :2] = values @ _tile_covariances(channel, fit) @ values.swapaxes(1, 2)
    covariance[:, :2, 2:], covariance[:, 2:, :2] = across, across.swapaxes(1, 2)
    for kind, component in enumerate((channel.gain_component, channel.component)):
        for other in (0, 1):
            between = _held_means(component, held[kind], across[:, kind, other])
            covariance[:, 2 + kind, 2 + other] = between
    return covariance


def _surface_derivatives(channel: Channel, fit: Fit) -> np.ndarray:
    """Return the derivatives ``(T, K)`` of levels at the centres by the surfaces of the tiles."""
    chosen = fit.columns.active.surface
    if channel.frame is None or not chosen.any():
        return np.zeros((channel.tiles, np.count_nonzero(chosen)))
    centre = channel.frame.centre
    place = (centre - centre[channel.ties.level]) / fit.half_tile
    return np.asarray(surface_basis(place)[:, chosen])


def _tile_covariances(channel: Channel, fit: Fit) -> np.ndarray:
    """Return the covariances ``(T, 2 + K, 2 + K)`` of the terms of each tile.

    Tiles with the same columns share them. A tile without a pair may share its gain and its level
    with different tiles: its covariances between gain and level are left out.
    """
    pairs, columns, normal = channel.pairs, fit.columns, fit.normal
    width = columns.index.shape[1]
    diagonal, blocks = normal.factor.inverse()
    # Tiles with the same level have the same surface.
    key = columns.index[:, 0] * (columns.size + 1) + columns.index[:, 1]
    _, first, tied = np.unique(key, return_index=True, return_inverse=True)
    covariance = np.zeros((len(first), width, width))
    place = np.arange(width)
    covariance[:, place, place] = columns.of_kind(diagonal)[first]
    covariance[tied[pairs.i]] = blocks[:, :width, :width]
    covariance[tied[pairs.j]] = blocks[:, width:, width:]
    covariance = covariance[tied]
    ratio = np.append(normal.ratio, np.zeros((1, normal.ratio.shape[1])), axis=0)[columns.index]
    return covariance + ratio @ normal.shared_inverse @ ratio.swapaxes(1, 2)
