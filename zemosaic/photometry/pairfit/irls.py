"""The rounds of a pair's fit: its columns, the weights of the rows, and what is told of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._kernels import compiled
from .._kernels.fit_summary import FIT_SUMMARY
from .algebra import (
    dot,
    line,
    median,
    of_patches,
    products,
    robust_scale,
    solve_normal_equations,
    thin,
    unexplained,
)
from .samples import DETAIL_NOISE, PairSamples

BIWEIGHT = 6.0  # Tukey's constant, in robust standard deviations: keeps 98 % efficiency
LAST_ROUNDS = 6  # at most, with Tukey's
STEADY = 3e-5  # each round leaves about a sixth of the change of the one before
MIN_NUISANCE_CELLS = 250  # below this the nuisance terms would fit the noise
PLAIN_TERMS = 4  # level, gradient and Laplacian: those before the smooth terms
PLANE_TERMS = 6  # and the plane
# What the second order must explain: it costs half of the precision, so only where it is plain.
CURVATURE_CHI2 = 100.0
# How far two exposures are expected to differ: a shift of a cell either way and, as the
# coefficient of the Laplacian, a FWHM twice as large. Without a prior, a scene without stars would
# leave these open, and the level with them.
SCENE_INFORMATION = np.array([0.5**-2, 0.5**-2, 0.2**-2])  # of cells, cells and square cells
SCENE = np.array([4, 5, 6])  # the columns of gradient and Laplacian


class State(NamedTuple):
    """Where the fit is: the lines, and the weighted rows that they are drawn through."""

    slope: np.ndarray  # (C,); NaN where it was lost
    w: np.ndarray  # (C, R)
    gram: np.ndarray  # (C, K, K)
    line: np.ndarray  # (C, 2, K) with all terms (see `line`)
    scale: np.ndarray  # (C,) robust deviation of the residuals, in units of the expected
    bread: np.ndarray  # (C,) what the biweight's slope takes from the information
    noise: np.ndarray  # (C,) of the instrument's spread, what tells nothing of the slope


def design_matrix(rows: PairSamples, slope: np.ndarray, model: str) -> np.ndarray:
    """x, y, the instrument for x, and the nuisance: level, scene terms, second order in u and v.

    All ``(C, K, B + F)``, of blocks and of the cells' differences from theirs, which have no level;
    made once, with the rough line: what is left of its error is of second order. With a level
    among the terms x and y are counted from their means, or digits are lost.
    """
    few, c, n = rows.cells < MIN_NUISANCE_CELLS, len(rows.x), len(rows.u)
    columns = np.empty((c, 3 if model == "gain" else 4 if few else 12, rows.variance.shape[-1]))
    if compiled.fused and columns.shape[1] == 12:
        compiled.fused.design_matrix(
            rows.x, rows.y, rows.derivatives, rows.variance, rows.u, rows.v, slope, rows.count,
            rows.at, rows.fine, rows.place, rows.block, rows.typical, rows.planes, columns,
            np.empty((2, n)), np.empty((6, *rows.shape)), *DETAIL_NOISE, rows.slope_noise,
        )  # fmt: skip
        return columns
    columns[:, 0, :n], columns[:, 1, :n] = rows.x, rows.y
    columns[:, :2, n:] = rows.details[0].swapaxes(0, 1)
    columns[:, 2] = columns[:, 0]
    if model == "gain":
        return columns
    columns[:, :3, :n] -= columns[:, :3, :n].mean(axis=-1, keepdims=True)
    columns[:, 3, :n], columns[:, 3, n:] = 1.0, 0.0
    if few:
        return columns
    part, a = rows.sample, slope[:, None]
    level = median(rows.y[:, part] - a * rows.x[:, part])[:, None]
    scene = rows.scene(a, level)
    scene[:, 0, :n] -= scene[:, 0, :n].mean(axis=-1, keepdims=True)
    columns[:, 2] = scene[:, 0] / a
    columns[:, 4:7] = scene[:, 1:]
    place = np.concatenate([[rows.u, rows.v], rows.place], axis=1)
    u, v = place - place[:, :n].mean(axis=1, keepdims=True)
    # Up to the second order, since a sky gradient need not be a plane over half a frame.
    smooth = np.stack([u, v, u * u, u * v, v * v])
    smooth[:, n:] -= smooth[:, rows.block]
    columns[:, 7:] = smooth
    return columns


def fit_irls(rows: PairSamples, columns: np.ndarray, slope: np.ndarray, free: bool) -> State:
    """Some rounds of reweighting."""
    if compiled.fused:
        (c, k, n), slope = columns.shape, slope.copy()
        state = State(
            slope, np.empty((c, n)), np.empty((c, k, k)), np.empty((c, 2, k)),
            np.empty(c), np.empty(c), np.empty(c),
        )  # fmt: skip
        compiled.fused.fit_irls(
            columns, *rows.variance, rows.block, *state,
            np.empty(c), np.empty((c, n)), np.empty((6, n)),
            SCENE_INFORMATION, not free, BIWEIGHT, LAST_ROUNDS, STEADY,
        )  # fmt: skip
        return state
    x, y, (vx, vy) = columns[:, 0], columns[:, 1], rows.variance
    terms, scenic, some = columns.shape[1] - 3, columns.shape[1] > 4, thin(columns.shape[2])
    lost = slope <= 0
    residual = y - slope[:, None] * x
    if terms:
        residual -= median(residual[:, some])[:, None]
    for _ in range(LAST_ROUNDS):
        a = slope[:, None]
        variance = a * a * vx
        variance += vy
        bent = residual * residual
        bent /= variance
        scale = robust_scale(bent[:, some])
        bent *= (BIWEIGHT * scale[:, None]) ** -2
        kept = 1 - bent
        np.maximum(kept, 0, out=kept)
        # Nor is a mean better than the worst of what it is made of: light that is cut off bends it.
        for row, cells in zip(kept, kept[:, len(rows.u) :], strict=True):
            np.minimum.at(row, rows.block, cells)
        w = kept * kept
        w /= variance
        if not scenic:
            # York's adjusted points have noise unlike the residual's, and so has the scene that
            # is made of them: either serves as the instrument for the noisy x.
            columns[:, 2] = x + a * vx * residual / variance
        gram = products(columns * w[:, None], columns)
        if scenic:
            gram[:, SCENE, SCENE] += SCENE_INFORMATION
        found = line(gram, terms, None if free else slope)
        before, slope = slope, -found[:, 0, 0]
        lost |= ~(slope > 0)
        slope[lost] = 1.0
        if (np.abs(slope - before) <= STEADY * slope).all():
            break
        residual = np.einsum("ck,ckn->cn", found[:, 0], columns)
    # The noise of York's points is part of their spread, and tells nothing of the slope.
    noise = np.zeros(len(slope)) if scenic else dot(w * vx, vy / variance) * scale**2
    squares = dot(kept, kept)
    down = 5 * squares - 4 * kept.sum(axis=-1)
    bread = np.maximum(1.0, squares / np.where(down == 0, np.inf, down))
    slope[lost] = np.nan
    return State(slope, w, gram, found, scale, bread, noise)


def summarize_fit(rows: PairSamples, columns: np.ndarray, state: State, free: bool) -> np.ndarray:
    """Compute the sums over the samples from which a measurement is assembled.

    Returns
    -------
    ndarray
        ``(C,)`` records of `FIT_SUMMARY`.
    """
    gram, terms = state.gram, columns.shape[1] - 3
    if compiled.fused:
        (c, n), patches = state.w.shape, int(rows.cluster.max()) + 1
        summary = np.empty(c, FIT_SUMMARY)
        compiled.fused.summarize_fit(
            rows.x, rows.y, rows.u, rows.v, rows.cluster, columns, state.w, gram, state.line,
            state.slope, state.noise, np.empty((5, patches)), np.empty((5, patches)),
            np.empty((4, n)), summary.view(np.float64).reshape(c, -1), not free,
            PLAIN_TERMS, PLANE_TERMS, CURVATURE_CHI2,
        )  # fmt: skip
        return summary
    held = None if free else state.slope
    lines = [line(gram, min(terms, n), held) for n in (PLAIN_TERMS, PLANE_TERMS)]
    # The second order too where the overlap clearly shows it.
    gained = unexplained(gram, lines[1][:, 0]) - unexplained(gram, state.line[:, 0])
    lines[1] = np.where((gained > CURVATURE_CHI2)[:, None, None], state.line, lines[1])
    # What that line leaves and what is left of its instrument, without a plane and with it.
    left = (np.concatenate(lines, axis=1) @ columns).swapaxes(0, 1)  # (4, C, R)
    slopes = -np.array([z[:, 0, 0] for z in lines])
    # The same from either side: the scene terms' prior is felt by x and y unlike.
    a = np.where(slopes > 0, slopes, 1.0)[..., None]
    seen = (columns[:, 0] + columns[:, 1] / a) / 2
    # What cells differ by from their blocks tells of the slope alone.
    w, n = state.w, len(rows.u)
    of_blocks, about = np.zeros_like(w), np.zeros((4, *w.shape))
    of_blocks[:, :n] = w[:, :n]
    about[..., :n] = np.array(np.broadcast_arrays(rows.u, rows.v, rows.x, rows.y))
    total = of_blocks.sum(axis=-1)
    pivot = dot(of_blocks, about) / total
    about[..., :n] -= pivot[..., None]
    one = np.zeros_like(w)
    one[:, :n] = 1.0
    z = np.concatenate([left[1::2], one[None], about[:2]])
    weighted = w * z
    sums = of_patches(rows.cluster, weighted, z, left[[0, 2, 2, 2, 2]])
    rms = median(np.abs(left[2][:, :n][:, rows.sample])) / 0.6745
    moments = np.einsum("icr,jcr->ijc", w * about, about)[np.triu_indices(4)]
    size, seen = dot(weighted[:2], z[:2]) - state.noise, dot(weighted[:2], seen) - state.noise
    mixed = dot(sums[3], sums[4])
    squares = dot(sums, sums)
    shift = np.full((4, len(w)), np.nan)
    if terms > PLAIN_TERMS:
        shift[:2] = state.line[:, 0, 4:6].T
        covariance = solve_normal_equations(gram[:, 3:, 3:], np.eye(terms)[:, 1:3])
        shift[2:] = covariance[:, [1, 2], [0, 1]].T
    fields = [slopes, size, seen, squares, [mixed], [total], pivot, moments, [rms], shift]
    return np.ascontiguousarray(np.concatenate(fields).T).view(FIT_SUMMARY)[:, 0]
