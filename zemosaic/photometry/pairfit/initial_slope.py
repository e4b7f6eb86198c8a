"""A first slope for the fit of a pair: robust, and without nuisance terms."""

from __future__ import annotations

import numpy as np

from .._kernels import compiled
from .algebra import dot, median, robust_scale, thin
from .samples import PairSamples

HUBER = 1.345  # for the first rounds, which must not throw good bright cells away
FIRST_ROUNDS = 5  # on a sample of the rows, with Huber's weights
NEARLY = 2e-3  # relative change of the slope that ends them
BRIGHT = 0.995  # quantile whose distance from the median gives a first slope
FAR = 6.0  # robust standard deviations, from which on a row counts no more


def initial_slope(rows: PairSamples) -> np.ndarray:
    """Slopes of robust lines without nuisance through the flattened blocks.

    A robust fit finds the line next to where it starts: where clouds hold most rows and a few
    stars most of the light, either may look like outliers to the other. So it starts from both,
    and of these lines, and of what they become, the one that leaves least unexplained is taken:
    where light is cut off in one tile and a trail lies in the other, the rounds only do harm. NaN
    where there is no line.
    """
    if compiled.fused:
        c, n = rows.x.shape
        found = np.empty(c)
        compiled.fused.initial_slope(
            rows.x, rows.y, *rows.of_blocks, rows.u, rows.v, rows.bright, rows.planes, found,
            np.empty((2, c, n)), np.empty((6, n)), np.empty((8, c)),
            BRIGHT, HUBER, FIRST_ROUNDS, NEARLY, FAR,
        )  # fmt: skip
        return found
    z, some = rows.flattened(), rows.sample
    middle = median(z[..., some])
    top = int(BRIGHT * (z.shape[-1] - 1))
    spread = np.partition(z, top, axis=-1)[..., top] - middle
    noise = median(rows.of_blocks[..., some])
    flat = (spread * np.abs(spread) < noise).any(axis=0)  # constant: nothing but rounding
    if flat.all():
        return np.full(len(flat), np.nan)
    starts = [np.where(flat, 1.0, spread[1]) / np.where(flat, 1.0, spread[0])]
    if rows.bright.any():
        light = z[..., rows.bright > 0] - middle[..., None]
        above = (light > 0).all(axis=0)
        ratios = [y[k] / x[k] for x, y, k in zip(*light, above, strict=True)]
        starts.append(
            np.array([
                np.partition(r, len(r) // 2)[len(r) // 2] if len(r) else start
                for r, start in zip(ratios, starts[0], strict=True)
            ])
        )  # fmt: skip
    vx, vy = rows.of_blocks
    left, slope = _lines(z[0], z[1], vx, vy, np.array(starts))
    best = left.argmin(axis=0), np.arange(len(flat))
    return np.where(np.isfinite(left[best]) & ~flat, slope[best], np.nan)


def _lines(
    x: np.ndarray, y: np.ndarray, vx: np.ndarray, vy: np.ndarray, slope: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lines as they start and become: what they leave (inf where lost), slopes; ``(2 S, C)``."""
    some = thin(x.shape[-1])
    lost = slope <= 0
    level = median((y - slope[..., None] * x)[..., some])
    starts = slope.copy(), level, lost.copy()
    for _ in range(FIRST_ROUNDS):
        a = slope[..., None]
        wide = a * vx
        variance = a * wide
        variance += vy
        bent = y - a * x
        bent -= level[..., None]
        bent *= bent
        bent /= variance
        scale = robust_scale(bent[..., some])[..., None]
        # Huber's weights: 1, or the limit in units of the deviation.
        bent *= (HUBER * scale) ** -2
        w = np.sqrt(np.maximum(bent, 1, out=bent))
        w *= variance
        np.divide(1, w, out=w)
        total = w.sum(axis=-1)
        mean_x, mean_y = dot(w, x) / total, dot(w, y) / total
        dx, dy = x - mean_x[..., None], y - mean_y[..., None]
        wide *= dy
        wide += dx * vy
        wide *= w
        wide /= variance
        down, before = dot(wide, dx), slope
        slope = dot(wide, dy) / np.where(down > 0, down, np.inf)
        lost |= ~(slope > 0)
        slope[lost] = 1.0
        level = mean_y - slope * mean_x
        if (np.abs(slope - before) <= NEARLY * slope).all():
            break
    slope, level, lost = (
        np.concatenate(both) for both in zip(starts, (slope, level, lost), strict=True)
    )
    a = slope[..., None]
    bent = (y - a * x - level[..., None]) ** 2 / (vy + a * a * vx)
    left = np.minimum(bent, FAR**2).sum(axis=-1)
    return np.where(lost, np.inf, left), slope
