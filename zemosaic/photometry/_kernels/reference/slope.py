"""Robust lines without nuisance terms, from which the fit of a pair starts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..algebra import dot, median, robust_scale, thin
from ..layout import SampleArrays


def initial_slope(
    samples: SampleArrays, planes: np.ndarray, *, bright_quantile: float, huber: float,
    rounds: int, tolerance: float, outlier_limit: float,
) -> np.ndarray:  # fmt: skip
    """Fit robust lines through the flattened blocks, without nuisance terms.

    Starts from the spread of all blocks and from the height of the stars. Of these lines and the
    lines that they converge to, it chooses the one with the smallest limited sum of squares.

    Parameters
    ----------
    samples : SampleArrays
        B blocks; cells are not used.
    planes : ndarray
        As of `sky_planes`.
    bright_quantile : float
        Quantile at the distance of the spread from the median.
    huber : float
        Limit of Huber's weights in robust standard deviations.
    rounds : int
        Largest number of rounds.
    tolerance : float
        Relative change of the slope that ends them.
    outlier_limit : float
        Largest residual, in expected standard deviations, that enters the comparison of lines.

    Returns
    -------
    ndarray
        ``(C,)``; NaN if there is no line.
    """
    blocks = _flattened(samples, planes)
    flat, starts = _start_slopes(blocks, samples.bright, bright_quantile)
    if flat.all():
        return np.full(len(flat), np.nan)
    started = _start_lines(blocks, starts)
    converged = _converge(started, blocks, huber, rounds, tolerance)
    slope = np.concatenate([started.slope, converged.slope])
    unexplained = np.concatenate(
        [_unexplained(lines, blocks, outlier_limit) for lines in (started, converged)]
    )
    best = unexplained.argmin(axis=0), np.arange(len(flat))
    return np.where(np.isfinite(unexplained[best]) & ~flat, slope[best], np.nan)


class _Blocks(NamedTuple):
    """Flattened values of blocks and their variances, ``(C, B)``."""

    x: np.ndarray
    y: np.ndarray
    x_variance: np.ndarray
    y_variance: np.ndarray


class _Lines(NamedTuple):
    """Lines ``(S, C)`` from S starts; `lost` if a slope was not positive."""

    slope: np.ndarray
    level: np.ndarray
    lost: np.ndarray


def _flattened(samples: SampleArrays, planes: np.ndarray) -> _Blocks:
    """Subtract planes from x and y, since gradients of the sky hide stars and imitate slopes."""
    level, along_u, along_v = planes
    sky = level + along_u * samples.u + along_v * samples.v
    return _Blocks(*(np.array([samples.x, samples.y]) - sky), *samples.block_variance)


def _start_slopes(
    blocks: _Blocks, bright: np.ndarray, bright_quantile: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each channel is constant but for rounding, and slopes ``(S, C)``."""
    values, variance = np.array([blocks.x, blocks.y]), np.array(blocks[2:])
    thinned = thin(values.shape[-1])
    middle = median(values[..., thinned])
    rank = int(bright_quantile * (values.shape[-1] - 1))
    spread = np.partition(values, rank, axis=-1)[..., rank] - middle
    flat = (spread * np.abs(spread) < median(variance[..., thinned])).any(axis=0)
    starts = [np.where(flat, 1.0, spread[1]) / np.where(flat, 1.0, spread[0])]
    if bright.any() and not flat.all():
        starts.append(_star_slopes(values[..., bright > 0] - middle[..., None], starts[0]))
    return flat, np.array(starts)


def _star_slopes(height: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Return the median ratio of the heights ``(2, C, S)`` of stars in each channel.

    A channel without stars above the sky gets the slope `otherwise`.
    """
    slopes = otherwise.copy()
    for channel, (x, y) in enumerate(height.swapaxes(0, 1)):
        above = (x > 0) & (y > 0)
        ratios = y[above] / x[above]
        if len(ratios):
            slopes[channel] = np.partition(ratios, len(ratios) // 2)[len(ratios) // 2]
    return slopes


def _start_lines(blocks: _Blocks, slope: np.ndarray) -> _Lines:
    """Return lines of given slopes through the medians."""
    thinned = thin(blocks.x.shape[-1])
    level = median((blocks.y - slope[..., None] * blocks.x)[..., thinned])
    return _Lines(slope, level, slope <= 0)


def _converge(
    lines: _Lines, blocks: _Blocks, huber: float, rounds: int, tolerance: float
) -> _Lines:
    """Repeat weighted fits until all slopes are steady."""
    for _ in range(rounds):
        previous, lines = lines.slope, _weighted_fit(lines, blocks, huber)
        if (np.abs(lines.slope - previous) <= tolerance * lines.slope).all():
            break
    return lines


def _weighted_fit(lines: _Lines, blocks: _Blocks, huber: float) -> _Lines:
    """Fit lines with York's adjusted points and Huber's weights."""
    scaled = lines.slope[..., None] * blocks.x_variance
    variance = lines.slope[..., None] * scaled + blocks.y_variance
    weights = _huber_weights(lines, blocks, variance, huber)
    total = weights.sum(axis=-1)
    mean_x, mean_y = dot(weights, blocks.x) / total, dot(weights, blocks.y) / total
    dx, dy = blocks.x - mean_x[..., None], blocks.y - mean_y[..., None]
    adjusted = (scaled * dy + dx * blocks.y_variance) * weights / variance
    product = dot(adjusted, dx)
    slope = dot(adjusted, dy) / np.where(product > 0, product, np.inf)
    lost = lines.lost | ~(slope > 0)
    slope[lost] = 1.0
    return _Lines(slope, mean_y - slope * mean_x, lost)


def _huber_weights(
    lines: _Lines, blocks: _Blocks, variance: np.ndarray, huber: float
) -> np.ndarray:
    """Return Huber's weights divided by the variance."""
    squares = _residual(lines, blocks) ** 2 / variance
    scale = robust_scale(squares[..., thin(squares.shape[-1])])[..., None]
    # 1, or the limit in units of the deviation.
    return 1 / (np.sqrt(np.maximum(squares * (huber * scale) ** -2, 1)) * variance)


def _residual(lines: _Lines, blocks: _Blocks) -> np.ndarray:
    return blocks.y - lines.slope[..., None] * blocks.x - lines.level[..., None]


def _unexplained(lines: _Lines, blocks: _Blocks, outlier_limit: float) -> np.ndarray:
    """Return the limited sums of squared residuals ``(S, C)``; inf for lost lines."""
    slope = lines.slope[..., None]
    variance = blocks.y_variance + slope * slope * blocks.x_variance
    squares = _residual(lines, blocks) ** 2 / variance
    return np.where(lines.lost, np.inf, np.minimum(squares, outlier_limit**2).sum(axis=-1))
