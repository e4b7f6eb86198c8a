"""Pixels -> blocks -> samples between the blocks, through one smooth kernel.

The path of a pixel: mean over blocks of half a cell, a [1, 2, 1] smoothing of the blocks, then
sampling at the centres of the grid's cells with a quadratic B-spline. What a cell holds is thus
the sky seen through one smooth kernel about a cell wide, the same wherever the cell falls
between the tile's pixels and however the tile is turned; blocks as large as a cell would alias.

All of it goes strip by strip, so that what is worked on stays in the processor's cache.
"""

from __future__ import annotations

import numpy as np

from zemosaic.photometry import compiled
from zemosaic.photometry.tiles import Tile

NODE_STEP = 16  # cells between exact positions; SIP bends by < 0.01 pixel over this
MIN_FRACTION = 0.8  # of the kernel that must be there: without a side it leans to the other
STRIP_PIXELS = 1 << 18  # read at once: 1 MiB
STRIP_ROWS = 32  # smoothed at once
STRIP_CELLS = 1 << 14  # sampled at once: ten or so arrays of 64 KiB
SATURATED = 10  # pixels of exactly the highest value: where light saturates, or noise, has one
SPIKE = 4  # times as many as have the value next to it
# Registration and seeing move this part of the steps across its border into a block or a cell, or
# out of it, beyond what the terms for both in the fit of a pair take up: of a cell more, since the
# kernel lies between the pixels of each tile in its own way. Measured on simulated tiles whose
# seeing differs by 10 %: gains scatter least so, and errors are honest.
BORDER_ERROR, CELL_ERROR = 0.005, 0.022
DIFFERENCES = 3 << 15  # about as many as these tell the noise of a block to 0.3 %


def block_means(tile: Tile, block: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a tile; mean of the valid pixels of each block, and the fraction that is valid.

    Parameters
    ----------
    tile : Tile
        Of C channels; its relative weights, if it has any, come as one more.
    block : int
        Side of a block in pixels; rows and columns beyond the last whole block are left out.

    Returns
    -------
    means : ndarray
        ``(C, H // block, W // block)`` float32; 0 where no pixel is valid.
    fraction : ndarray or None
        Of the same shape; None where all pixels are valid, as those that are saturated are not.
    """
    h, w = tile.shape
    highest = np.full(tile.channels, -np.inf)
    shape = (tile.channels + (tile.weight is not None), h // block, w // block)
    means, fraction = np.empty(shape, dtype=np.float32), None
    height = max(1, STRIP_PIXELS // (tile.channels * w * block))  # in blocks
    if tile.weight is not None:
        relative = (tile.weight / np.median(tile.weight[tile.weight > 0])).astype(np.float32)
    for number, planes in enumerate(tile.strips(height * block)):
        top = number * height
        drop_saturated(planes, highest)
        if tile.weight is not None:
            rows = slice(top * block, top * block + planes.shape[1])
            planes = np.concatenate([planes, relative[np.newaxis, rows]])  # noqa: PLW2901
        mean, valid = block_mean(planes, block)
        means[:, top : top + height] = mean
        if valid is not None:
            if fraction is None:
                fraction = np.ones(shape, dtype=np.float32)
            fraction[:, top : top + height] = valid
    return means, fraction


def drop_saturated(planes: np.ndarray, highest: np.ndarray) -> None:
    """Make pixels NaN, in all channels, where one channel is cut off at its highest value.

    Cut-off light tells nothing of a gain, and where many pixels have it in two tiles it passes for
    a scene. It is told by its spike: a sky without saturation has its highest value in one pixel,
    or, if it is quantised, hardly more often than the next one.

    Parameters
    ----------
    planes : ndarray
        ``(C, h, W)`` float32 in ADU, a strip of a tile.
    highest : ndarray
        ``(C,)`` the highest values of the strips before; those of this one are noted.
    """
    cut = None
    for k, plane in enumerate(planes):
        top = plane.max()
        if not np.isfinite(top):
            top = np.max(plane, initial=-np.inf, where=np.isfinite(plane))
        if top < highest[k]:
            continue  # saturation would be as high as the highest
        highest[k], at = top, plane == top
        count = np.count_nonzero(at)
        if count < SATURATED or not np.isfinite(top):
            continue
        below = np.max(plane, initial=-np.inf, where=plane < top)
        if np.isfinite(below) and count > SPIKE * np.count_nonzero(plane == below):
            cut = at if cut is None else cut | at
    if cut is not None:
        planes[:, cut] = np.nan


def block_mean(planes: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Means and valid fractions, as `block_means` gives them, of ``(C, H, W)`` float32."""
    with np.errstate(over="ignore", invalid="ignore"):  # one that is not finite spoils its block
        sums = block_sum(planes, block)
    if np.isfinite(sums).all():
        sums *= np.float32(1 / block**2)
        return sums, None
    valid = np.isfinite(planes)
    counts = block_sum(valid.astype(np.float32), block)
    sums = block_sum(np.where(valid, planes, np.float32(0)), block)
    return sums / np.maximum(counts, 1), counts / np.float32(block**2)


def block_sum(planes: np.ndarray, block: int) -> np.ndarray:
    """Sums over the whole blocks of ``(C, H, W)``."""
    c, h, w = planes.shape
    planes = planes[:, : h - h % block, : w - w % block]
    rows = planes.reshape(c, h // block, block, w - w % block).sum(axis=2)
    if block == 1:
        return rows
    total = rows[..., ::block] + rows[..., 1::block]
    for k in range(2, block):
        total += rows[..., k::block]
    return total


def block_summary(
    values: np.ndarray, variance: np.ndarray, corner: tuple[int, int], side: int
) -> np.ndarray:
    """What blocks of cells hold: means, and what may have crossed their borders.

    Light that registration or seeing moves within a block stays in it. What crosses the border
    is told by the steps there: their sum is that of the Laplacian over the block, as of any flow
    out of it, and their squares are those of the error that they leave.

    Parameters
    ----------
    values, variance : ndarray
        ``(C, h, w)`` float32; NaN where invalid.
    corner : tuple of int
        Row and column of the first cell within the first block.
    side : int
        Cells along a block.

    Returns
    -------
    ndarray
        ``(7, C, H, W)`` float32: mean value, mean variance (with BORDER_ERROR), largest value,
        mean gradient along u and v, mean Laplacian and number of valid cells. Of blocks with a
        cell that is not valid only the number, else 0; derivatives are 0 along an axis where a
        neighbour is missing.
    """
    c, h, w = values.shape
    height, width = (-(-(n + k) // side) for n, k in zip((h, w), corner, strict=True))
    cells = np.full((2, c, height * side, width * side), np.nan, dtype=np.float32)
    for plane, out in zip((values, variance), cells, strict=True):
        out[:, corner[0] : corner[0] + h, corner[1] : corner[1] + w] = plane
    valid = np.isfinite(cells[0]).astype(np.float32)
    found = np.zeros((7, c, height, width), dtype=np.float32)
    for k in range(2):
        found[k] = block_sum(cells[k], side)
    found[2] = block_highest(cells[0], side)
    found[6] = block_sum(valid, side)
    # The cells on both sides of the lines between blocks: those that meet along u, and along v.
    for kind, axis, group in ((3, 2, (side, 1)), (4, 1, (1, side))):
        before = cells[0][_every(axis, side - 1, -1, side)]
        after = cells[0][_every(axis, side, None, side)]
        first, last, inner = (_every(axis, *k) for k in ((None, -1), (1, None), (1, -1)))
        step = after - before
        flow, square, middle = (
            _grouped(z, group) for z in (step, step * step, (before + after) / 2)
        )
        missing = np.isnan(flow)
        square[missing] = 0
        square *= np.float32(BORDER_ERROR**2)
        found[1][first] += square
        found[1][last] += square
        missing = missing[first] | missing[last]
        for sums, out in ((middle, found[kind]), (flow, found[5])):
            change = sums[last] - sums[first]
            change[missing] = 0
            out[inner] += change
    found[[0, 1, 3, 4, 5]] *= np.float32(1 / side**2)
    np.copyto(found[:6], 0, where=found[6] < side**2)
    return found


def _every(axis: int, *limits: int | None) -> tuple[slice, ...]:
    """Some of the elements along an axis."""
    return (*(slice(None) for _ in range(axis)), slice(*limits))


def _grouped(planes: np.ndarray, group: tuple[int, int]) -> np.ndarray:
    """Sums of so many rows and columns of ``(C, H, W)``."""
    rows, columns = group
    c, h, w = planes.shape
    if rows > 1:
        return planes.reshape(c, h // rows, rows, w).sum(axis=2)
    total = planes[..., ::columns].copy()
    for k in range(1, columns):
        total += planes[..., k::columns]
    return total


def block_highest(planes: np.ndarray, side: int) -> np.ndarray:
    """Largest values of the blocks of ``(C, H, W)``; NaN where a cell is NaN."""
    c, h, w = planes.shape
    rows = planes.reshape(c, h // side, side, w).max(axis=2)
    highest = rows[..., ::side]
    for k in range(1, side):
        highest = np.maximum(highest, rows[..., k::side])
    return highest


def block_noise(means: np.ndarray) -> float:
    """Noise of a block from second differences: blind to slopes, hardly moved by stars.

    Parameters
    ----------
    means : ndarray
        ``(h, w)`` float32, the blocks of one channel.
    """
    # Every third difference is independent of the one before: the others tell little more.
    apart = 3 if means.size > DIFFERENCES else 1
    thin = max(1, 2 * means.size // (apart * DIFFERENCES))
    squares = np.concatenate([_bends(means[::thin].T, apart), _bends(means, apart * thin)])
    np.square(squares, out=squares)
    if not squares.all():
        squares = squares[squares > 0]  # padding and constant areas say nothing
    if not len(squares):
        return 0.0
    few = squares[:: max(1, len(squares) >> 14)]
    variance = float(np.median(few)) / 0.6745**2
    for some in (few, few, few, squares):
        # The rms of a normal distribution cut at ±2 sigma is 0.8796 sigma.
        kept = some[some < 4 * variance]
        if not len(kept):
            break
        variance = float(kept.mean(dtype=np.float64)) / 0.8796**2
    return float(np.sqrt(variance / 6.0))


def _bends(lines: np.ndarray, apart: int) -> np.ndarray:
    """Second differences along the first axis, `apart` lines from one to the next."""
    bends = lines[:-2:apart] + lines[2::apart]
    bends -= 2 * lines[1:-1:apart]
    return bends.ravel()


def between(nodes: np.ndarray, first: int, last: int, axis: int) -> np.ndarray:
    """Values at the cells from `first` on along an axis, linear between nodes NODE_STEP apart."""
    below, part = np.divmod(np.arange(first, last), NODE_STEP)
    low = nodes.take(below, axis)
    step = nodes.take(below + 1, axis) - low
    step *= np.expand_dims(part / NODE_STEP, tuple(range(1, nodes.ndim - axis)))
    low += step
    return low


def sample(
    means: np.ndarray, fraction: np.ndarray | None, nodes: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples of the smoothed blocks, and what sampling does to the noise.

    Parameters
    ----------
    means, fraction : ndarray
        As of `block_means`.
    nodes : ndarray
        ``(2, rows, columns)`` float64: x and y, in blocks, of every sixteenth cell.
    shape : tuple of int
        Height and width in cells of what is sampled.

    Returns
    -------
    values : ndarray
        ``(C, *shape)`` float32; NaN where the kernel does not lie in the tile.
    factor : ndarray
        ``(1, *shape)`` or ``(C, *shape)`` float32: the variance of a sample in units of that of a
        block. It depends on where between the blocks the sample lies, hence on the tile; a line
        through two tiles of low contrast is biased unless that is known.
    missing : ndarray
        ``(1, 1, 1)`` or ``(C, *shape)`` float32: the part of the kernel that is missing.
    """
    if fraction is None:
        values, factor = _splined(_smoothed(means), nodes, shape)
        return values, factor[np.newaxis], np.zeros((1, 1, 1), dtype=np.float32)
    planes = np.concatenate([means * fraction, fraction])
    both, factor = _splined(_smoothed(planes), nodes, shape)
    values, covered = both[: len(means)], both[len(means) :]
    covered[covered < MIN_FRACTION] = np.nan
    values /= covered
    return values, factor / covered, 1 - covered


def _smoothed(planes: np.ndarray) -> np.ndarray:
    """Convolution with [1, 2, 1] along both axes; without the outermost blocks; 16 times over."""
    p, h, w = planes.shape
    smooth = np.empty((p, max(h - 2, 0), max(w - 2, 0)), dtype=np.float32)
    for plane, out in zip(planes, smooth, strict=True):
        for top in range(0, len(out), STRIP_ROWS):
            rows = plane[top : top + STRIP_ROWS + 2]
            rows = rows[:-1] + rows[1:]
            rows = rows[:-1] + rows[1:]
            rows = rows[:, :-1] + rows[:, 1:]
            np.add(rows[:, :-1], rows[:, 1:], out=out[top : top + STRIP_ROWS])
    return smooth


def _splined(
    planes: np.ndarray, nodes: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of smoothed planes ``(P, h, w)``, and the variance factor of each."""
    p, h, w = planes.shape
    height, width = shape
    values, factor = np.empty((p, *shape), dtype=np.float32), np.empty(shape, dtype=np.float32)
    if min(h, w) < 3:
        values[:], factor[:] = np.nan, np.nan
        return values, factor
    if compiled.fused:
        compiled.fused.splined(
            planes, np.ascontiguousarray(nodes), values, factor,
            np.empty((8, width), dtype=np.float32), np.empty((3, width)),
        )  # fmt: skip
        return values, factor
    flat = planes.reshape(p, h * w)
    nodes = between(nodes - 1, 0, width, 2)  # smoothing took the outermost blocks
    step = max(1, STRIP_CELLS // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        x, y = between(nodes, top, bottom, 1)
        column, across, across_noise = _spline(x, w)
        row, along, along_noise = _spline(y, h)
        np.multiply(across_noise, along_noise, out=factor[top:bottom])
        corner = ((row - 1) * w + (column - 1)).astype(np.intp)
        term = np.empty(corner.shape, dtype=np.float32)
        values[:, top:bottom] = 0
        for m in range(3):
            for n in range(3):
                weight = along[m] * across[n]
                for k in range(p):
                    # The index is in range; "clip" is the mode that does not look twice.
                    flat[k, m * w + n :].take(corner, out=term, mode="clip")
                    term *= weight
                    values[k, top:bottom] += term
    return values, factor


def _spline(x: np.ndarray, blocks: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Middle block of each sample, weights of it and its neighbours, and the noise they leave.

    The quadratic B-spline: its width does not depend on where the sample lies, where that of
    linear interpolation does, so that a star has the same shape wherever it falls between the
    blocks. Weights and noise are NaN where the kernel reaches beyond the blocks, and hold the
    quarter of `_smoothed`.
    """
    middle = np.fmax(np.fmin(np.rint(x), blocks - 2), 1)
    t = (x - middle).astype(np.float32)
    t[~(np.abs(t) <= 0.5)] = np.nan
    square = t * t
    half = np.float32(0.125)
    side = half * square
    side += np.float32(1 / 32)
    centre = np.float32(3 / 16) - square * np.float32(0.25)
    t *= half
    # The sum of squares of the spline convolved with [1, 2, 1] / 4.
    noise = square * np.float32(3 / 32)
    noise -= np.float32(3 / 64)
    noise *= square
    noise += np.float32(163 / 512)
    return middle, [side - t, centre, side + t], noise


def local_contrast(values: np.ndarray) -> np.ndarray:
    """Largest step to one of the four neighbouring cells; NaN neighbours say nothing."""
    contrast = np.zeros_like(values)
    for axis in (1, 2):
        n = values.shape[axis]
        low, high = ((slice(None),) * axis + (slice(k, n - 1 + k),) for k in (0, 1))
        step = values[high] - values[low]
        np.abs(step, out=step)
        np.fmax(contrast[low], step, out=contrast[low])
        np.fmax(contrast[high], step, out=contrast[high])
    return contrast
