"""Removal of the fine structure from the measured levels of the pairs."""

from __future__ import annotations

import numpy as np

from .._kernels.lattice import AREAS
from ..cosine_series import CosineSeries
from ..pairfit.measurement import PATCH_NUMBERS, PATCH_WEIGHT
from ..solver.channel import TileFrame
from ..solver.channel_pairs import MeasuredPairs

CHUNK = 1024  # pairs at once
POINTS = np.array([-0.75, -0.25, 0.25, 0.75])  # along a patch, in units of half its side


def without_fine_flat(
    given: MeasuredPairs,
    ends: tuple[np.ndarray, np.ndarray],
    fine: CosineSeries,
    frame: TileFrame,
    dark: np.ndarray,
) -> MeasuredPairs:
    """Return the measured pairs of one channel as if the tiles had no fine structure.

    A patch is taken for a rectangle. Gains stay as they are.

    Parameters
    ----------
    given : MeasuredPairs
        Pairs of tiles of one instrument are changed.
    ends : tuple of ndarray
        ``(P,)`` tiles i and j of each pair.
    fine : CosineSeries
        The structure of ln F of the instrument, in this channel alone.
    frame : TileFrame
        Positions of the tiles.
    dark : ndarray
        ``(T,)`` value in ADU of a tile's pixels without light; NaN for tiles of other instruments,
        which stay as they are.
    """
    rows = given.rows.copy()
    tiles = [end[given.measured] for end in ends]
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        _remove(rows[part], [end[part] for end in tiles], fine, frame, dark)
    return MeasuredPairs(given.measured, rows)


def _remove(
    rows: np.ndarray,
    tiles: list[np.ndarray],
    fine: CosineSeries,
    frame: TileFrame,
    dark: np.ndarray,
) -> None:
    """Remove the structure from some rows, in place."""
    patches = rows["patches"].reshape(len(rows), AREAS, PATCH_NUMBERS)
    weight = patches[..., PATCH_WEIGHT]
    total = np.maximum(weight.sum(axis=1), 1e-300)
    half = np.sqrt(3 * np.maximum(patches[..., [4, 6]], 0))  # of the sides of a rectangle
    offset = np.stack(np.meshgrid(POINTS, POINTS), axis=-1).reshape(-1, 2) * half[..., None, :]
    places = patches[..., None, :2] + offset
    tilts = np.zeros((*weight.shape, 2))
    for level, pivot, tile in zip((2, 3), ("x", "y"), tiles, strict=True):
        lit = np.isfinite(dark[tile]) & (weight > 0).T
        excess = np.where(lit.T[..., None], _excess(fine, frame, tile, places), 0.0)
        light = patches[..., level] - np.nan_to_num(dark[tile])[:, None]
        mean = excess.mean(axis=-1)
        tilts += np.mean(excess[..., None] * offset, axis=-2) / 2
        at_pivot = (weight * mean).sum(axis=1) / total
        patches[..., level] -= light * mean
        rows[pivot] -= (rows[pivot] - np.nan_to_num(dark[tile])) * at_pivot
    light = patches[..., 2] - np.nan_to_num(dark[tiles[0]])[:, None]
    patches[..., 9:] -= light[..., None] * tilts
    rows["patches"] = patches.reshape(len(rows), -1)


def _excess(
    fine: CosineSeries, frame: TileFrame, tile: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Return the part ``(n, 16, points)`` of the light that is due to the structure."""
    inverse = np.linalg.inv(frame.jacobian[tile])
    pixels = np.einsum("nab,nkpb->nkpa", inverse, places - frame.centre[tile][:, None, None])
    x, y = np.moveaxis(2 * pixels / frame.shape[tile][:, None, None, ::-1], -1, 0)
    return -np.expm1(-fine.at(np.clip(x, -1, 1), np.clip(y, -1, 1))[0])
