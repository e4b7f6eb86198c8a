"""Removal of the fine structure from the measured levels of the pairs."""

from __future__ import annotations

import numpy as np

from .._kernels.lattice import AREAS
from ..illumination import FineStructure
from ..pairfit.measurement import PATCH_NUMBERS, PATCH_WEIGHT
from ..solver.channel import TileFrame
from ..solver.channel_pairs import MeasuredPairs

CHUNK = 1024  # pairs at once
POINTS = np.array([-0.75, -0.25, 0.25, 0.75])  # along a patch, in units of half its side


def without_fine_structure(
    given: MeasuredPairs,
    ends: tuple[np.ndarray, np.ndarray],
    fine: FineStructure,
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
    fine : FineStructure
        The structure of the instrument, in this channel alone.
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
    fine: FineStructure,
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
    units = np.ones(len(rows)), rows["gain"]  # of tile i, in those of each tile
    for level, pivot, tile, unit in zip((2, 3), ("x", "y"), tiles, units, strict=True):
        values = fine.series.at(*_detector_places(frame, tile, places))[0]
        if fine.kind == "log_flat":
            light = patches[..., level] - dark[tile][:, None]
            values = light[..., None] * -np.expm1(-values)
        own = np.isfinite(dark[tile])[:, None] & (weight > 0)
        values = np.where(own[..., None], values, 0.0)
        mean = values.mean(axis=-1)
        patches[..., level] -= mean
        rows[pivot] -= (weight * mean).sum(axis=1) / total
        tilts = np.mean(values[..., None] * offset, axis=-2)
        patches[..., 9:] -= tilts / (2 * unit[:, None, None])  # the mean of both tiles
    rows["patches"] = patches.reshape(len(rows), -1)


def _detector_places(
    frame: TileFrame, tile: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y ``(n, 16, points)`` on the detector of places in cells, within the tiles."""
    inverse = np.linalg.inv(frame.jacobian[tile])
    pixels = np.einsum("nab,nkpb->nkpa", inverse, places - frame.centre[tile][:, None, None])
    x, y = np.moveaxis(2 * pixels / frame.shape[tile][:, None, None, ::-1], -1, 0)
    return np.clip(x, -1, 1), np.clip(y, -1, 1)
