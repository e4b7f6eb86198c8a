"""The design matrix of a pair's fit, and the scene that both tiles share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..algebra import median, solve_normal_equations, sum_threes, thin
from ..layout import Column, SampleArrays


def sky_planes(samples: SampleArrays) -> np.ndarray:
    """Fit planes through the blocks without stars.

    Returns
    -------
    ndarray
        ``(3, 2, C, 1)`` coefficients of 1, u and v, for x and for y.
    """
    dark = np.flatnonzero(samples.bright == 0)
    dark = dark[thin(len(dark))] if len(dark) >= 3 else np.arange(len(samples.u))
    basis = np.array([np.ones(len(dark)), samples.u[dark], samples.v[dark]])
    values = np.concatenate([samples.x[:, dark], samples.y[:, dark]])
    # einsum, since BLAS might use threads for so long a sum.
    products = np.einsum("in,jn->ij", basis, np.concatenate([basis, values]))
    return solve_normal_equations(products[:, :3], products[:, 3:]).reshape(3, 2, -1, 1)


def design_matrix(
    samples: SampleArrays, planes: np.ndarray, slope: np.ndarray, *,
    detail_noise: tuple[float, float, float], derivative_noise: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Compute all columns of the design matrix.

    Parameters
    ----------
    samples : SampleArrays
        B blocks and F cells; cells enter by their difference from their block.
    planes : ndarray
        As of `sky_planes`.
    slope : ndarray
        ``(C,)`` approximate slopes.
    detail_noise : tuple of float
        Noise of the differences between a block, 3 x 3, 9 x 9 and the plane, in units of the
        noise of a block.
    derivative_noise : ndarray
        ``(2, 2)`` variances of gradient and Laplacian, of blocks and of cells, in units of the
        variance of the value.

    Returns
    -------
    ndarray
        ``(C, 12, R)`` in the order of `Column`. X, Y and INSTRUMENT are counted from their means,
        or digits would be lost.
    """
    n, scale = len(samples.u), slope[:, None]
    design = np.empty((len(slope), len(Column), samples.variance.shape[-1]))
    design[:, Column.X, :n], design[:, Column.Y, :n] = samples.x, samples.y
    design[:, :2, n:] = samples.cell_details[0].swapaxes(0, 1)
    design[:, Column.LEVEL, :n], design[:, Column.LEVEL, n:] = 1.0, 0.0
    thinned = thin(n)
    level = median(samples.y[:, thinned] - scale * samples.x[:, thinned])[:, None]
    line = _Line(scale, level)
    design[:, Column.INSTRUMENT, :n] = _block_scene(samples, planes, line, detail_noise)
    design[:, Column.INSTRUMENT, n:] = _cell_scene(samples, scale)
    derivatives = _scene_derivatives(samples, scale, derivative_noise)
    design[:, Column.GRADIENT_U : Column.U] = derivatives.swapaxes(0, 1)
    design[:, : Column.LEVEL, :n] -= design[:, : Column.LEVEL, :n].mean(axis=-1, keepdims=True)
    design[:, Column.INSTRUMENT] /= scale
    design[:, Column.U :] = _surface(samples)
    return design


def _surface(samples: SampleArrays) -> np.ndarray:
    """Return the columns ``(5, R)`` of the second-order surface.

    The second order is needed because a sky gradient is not a plane over half a frame.
    """
    n = len(samples.u)
    position = np.concatenate([[samples.u, samples.v], samples.cell_position], axis=1)
    u, v = position - position[:, :n].mean(axis=1, keepdims=True)
    surface = np.stack([u, v, u * u, u * v, v * v])
    surface[:, n:] -= surface[:, samples.cell_block]
    return surface


class _Line(NamedTuple):
    """Slope and level ``(C, 1)`` of each channel."""

    slope: np.ndarray
    level: np.ndarray


def _mean_scene(
    x: np.ndarray, y: np.ndarray, variance: np.ndarray, line: _Line
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of slope x and y with noise that is uncorrelated with y - slope x.

    The second result is its variance. `variance` holds the variances of x and y.
    """
    x_variance, y_variance = variance
    scaled = line.slope * line.slope * x_variance
    share = scaled / (scaled + y_variance)
    mean = (y - line.level - line.slope * x) * share + line.slope * x
    return mean, share * y_variance


def _block_scene(
    samples: SampleArrays, planes: np.ndarray, line: _Line, detail_noise: tuple[float, float, float]
) -> np.ndarray:
    """Return the scene ``(C, B)`` of blocks in ADU of tile j, without details that may be noise.

    Details of each size are shrunk where they are below three times their noise, as in wavelet
    denoising (Donoho and Johnstone 1994, Biometrika 81, 425). The noise of the mean is independent
    of the residual, and so is any function of it, so this instrument causes no bias; samples of
    noise alone would only dilute it.
    """
    scene, variance = _mean_scene(samples.x, samples.y, samples.block_variance, line)
    no_level = _Line(line.slope, np.zeros_like(line.level))
    (x_level, y_level), *gradients = planes
    plane, typical = _mean_scene(x_level, y_level, samples.typical_variance, line)
    along_u, along_v = (
        _mean_scene(x, y, samples.typical_variance, no_level)[0] for x, y in gradients
    )
    sky = plane + along_u * samples.u + along_v * samples.v
    three, nine = _neighbour_means(samples, scene)
    layers = np.stack([scene, three, nine, sky])
    noise = np.empty((3, *scene.shape))
    for k, expected in enumerate((variance, typical, typical)):
        noise[k] = detail_noise[k] ** 2 * expected
    return _shrink_details(layers[:3] - layers[1:], noise).sum(axis=0) + sky


def _neighbour_means(samples: SampleArrays, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means ``(C, B)`` over the 3 x 3 and the 9 x 9 blocks around each block."""
    channels, (height, width) = len(values), samples.frame_shape
    images = np.zeros((channels + 1, height * width))
    images[:channels, samples.block_index] = values * samples.cell_count
    images[channels, samples.block_index] = samples.cell_count
    threes = sum_threes(images.reshape(-1, height, width), 1)
    three, nine = (
        sums.reshape(-1, height * width)[:, samples.block_index]
        for sums in (threes, sum_threes(threes, 3))
    )
    return three[:channels] / three[channels], nine[:channels] / nine[channels]


def _cell_scene(samples: SampleArrays, slope: np.ndarray) -> np.ndarray:
    """Return the scene ``(C, F)`` of cells minus the scene of their blocks, in ADU of tile j."""
    x, y = samples.cell_details[0]
    cell_variance = samples.variance[..., len(samples.u) :]
    return _shrink_details(*_mean_scene(x, y, cell_variance, _Line(slope, np.zeros_like(slope))))


def _scene_derivatives(
    samples: SampleArrays, slope: np.ndarray, derivative_noise: np.ndarray
) -> np.ndarray:
    """Return gradient and Laplacian of the scene, ``(3, C, R)``."""
    derivatives = np.concatenate([samples.derivatives, samples.cell_details[1:]], axis=-1)
    x, y = derivatives.swapaxes(0, 1)
    mean, variance = _mean_scene(x, y, samples.variance, _Line(slope, np.zeros_like(slope)))
    counts = [len(samples.u), len(samples.cell_block)]
    noise = np.repeat(derivative_noise, counts, axis=0)[:, [0, 0, 1]].T
    return _shrink_details(mean, variance * noise[:, np.newaxis])


def _shrink_details(detail: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Shrink details: to 0 below three times their noise, and hardly if far above it."""
    # A detail far below the noise would overflow; where it is 0 and so is the noise, it stays 0.
    square = np.maximum(np.maximum(detail * detail, variance), 1e-300)
    share = variance * -9.0 / square + 1
    return np.maximum(share, 0) * detail
