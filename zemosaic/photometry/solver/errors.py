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
    of the anchor. Both together, because a common factor moves each level in proportion to itself.

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
    columns = fit.columns
    held, weight = _held_means(channel, fit)
    shared = np.zeros((len(fit.normal.shared_inverse), 2))
    response = np.append(fit.normal.solve(held, shared)[0], np.zeros((1, 2)), axis=0)
    response = response[columns.index]  # (T, 2 + K, 2): covariances with the held means
    gauge = _group_means(channel, weight, response[:, :2])
    derivative = np.zeros((channel.tiles, 2, columns.index.shape[1]))
    derivative[:, 0, 0] = 1.0
    derivative[:, 1] = _offset_derivatives(channel, fit, reference)
    covariance = _tile_covariances(channel, fit)
    variance = np.einsum("tfa,tab,tfb->tf", derivative, covariance, derivative)
    variance -= _explained(derivative @ response, gauge)
    variance[fit.doubtful] *= LEAST_WEIGHT  # as if their pairs had their weight
    if channel.anchor is not None:
        variance[channel.ties.node == channel.ties.node[channel.anchor]] = 0.0  # but for rounding
    errors = np.sqrt(np.maximum(variance, 0.0))
    return errors[:, 0], errors[:, 1]


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


def _held_means(channel: Channel, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Return the held means as sums of columns ``(N, 2)``, and shares of tiles ``(2, T)``."""
    index = fit.columns.index
    weight = np.stack([counted_tiles(channel, fit.apart), np.ones(channel.tiles)])
    held = np.zeros((fit.columns.size + 1, 2))
    for kind, component in enumerate((channel.gain_component, channel.component)):
        if channel.anchor is not None:
            of_anchor = component == component[channel.anchor]
            is_anchor = np.arange(channel.tiles) == channel.anchor
            weight[kind] = np.where(of_anchor, is_anchor, weight[kind])
        weight[kind] /= np.maximum(np.bincount(component, weight[kind]), 1)[component]
        np.add.at(held[:, kind], index[:, kind], weight[kind])
    return held[:-1], weight


def _group_means(channel: Channel, weight: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return the covariances ``(T, 2, 2)`` of the held means of each tile's components.

    `response` ``(T, 2, 2)`` are the covariances of log-gain and level with these means.
    """
    means = [
        np.stack([np.bincount(part, share * response[:, kind, b])[part] for b in (0, 1)], axis=1)
        for kind, (part, share) in enumerate(
            zip((channel.gain_component, channel.component), weight, strict=True)
        )
    ]
    return np.stack(means, axis=1)


def _offset_derivatives(channel: Channel, fit: Fit, reference: np.ndarray) -> np.ndarray:
    """Return the derivatives ``(T, 2 + K)`` of offsets by the terms of their tiles."""
    surface = np.zeros((channel.tiles, fit.columns.index.shape[1] - 2))
    if channel.frame is not None and surface.shape[1]:
        centre = channel.frame.centre
        place = (centre - centre[channel.ties.level]) / fit.half_tile
        surface = surface_basis(place)[:, fit.columns.active.surface]
    by_gain = -np.exp(fit.state.log_gain) * reference
    return np.column_stack([np.nan_to_num(by_gain), np.ones(channel.tiles), surface])


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


def _explained(covariance: np.ndarray, gauge: np.ndarray) -> np.ndarray:
    """Return the variances ``(T, F)`` of values that two others explain.

    `covariance` ``(T, F, 2)`` is between the values and the others, and `gauge` ``(T, 2, 2)`` among
    the others, of which one may be constant.
    """
    scale = np.sqrt(np.maximum(np.diagonal(gauge, axis1=1, axis2=2), 1e-300))
    relative = gauge[:, 1, 0] / (scale[:, 0] * scale[:, 1])
    normed = covariance / scale[:, None, :]
    squares = (normed**2).sum(axis=2) - 2 * relative[:, None] * normed.prod(axis=2)
    return np.asarray(squares / np.maximum(1 - relative**2, 1e-12)[:, None])
