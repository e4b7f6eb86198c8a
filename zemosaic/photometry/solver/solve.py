"""Measurements -> corrections of every tile and channel.

Each channel is solved for itself (`zemosaic.photometry.solver.channel`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..overlap.graph import OverlapGraph, component_labels, repetition
from ..pairfit.measure import Measurement
from .channel import ChannelSolver, TileFrame


@dataclass(frozen=True, eq=False)
class Solution:
    """Corrections of every tile and channel.

    ``corrected = gain * data + offset + slope_x * (x - x0) + slope_y * (y - y0)`` with (x0, y0)
    the tile's centre.

    Parameters
    ----------
    gain, offset : ndarray
        ``(T, C)`` float64; offsets in ADU. A tile without a measured pair has gain 1 and
        offset 0; a tile that could not be read has NaN.
    gain_err, offset_err : ndarray
        ``(T, C)`` standard errors within the component, gauge fixed; NaN: not known, because
        nothing was measured. A gain that no pair ties to most of its component is not known.
    slope_x, slope_y : ndarray
        ``(T, C)`` float64 in ADU per pixel of the tile; 0 without planes.
    component : ndarray
        ``(T, C)`` int: tiles of one component are matched to one another; how two components
        relate is not known. -1 for a tile that could not be read.
    gain_group : ndarray
        ``(T, C)`` int: tiles that pairs with a measured gain join. Where a component has several,
        its levels agree, and how the gains of two groups relate is not known: each keeps its mean
        at 1. -1 for a tile that could not be read.
    pairs : ndarray
        ``(T, C)`` int: measured pairs of each tile.
    planes : ndarray
        ``(T, C)`` bool: whether the tile's component has planes.
    residual : ndarray
        ``(P, C)`` float64: level residual of every pair at its pivot in ADU, after correction;
        NaN where the pair was not measured.
    gain_residual : ndarray
        ``(P, C)`` float64: residual of every pair's log-gain; NaN where it was not measured.
    chi : ndarray
        ``(P, C)`` float64: the larger of both residuals in units of its error; NaN likewise.
    suspect : ndarray
        ``(T, C)`` bool: tiles most of whose pairs contradict the others: a cloud, a wrong WCS.
    plane_chi2 : ndarray
        ``(T, C)`` float64: median chi² of the planes of the component's pairs (1.39 is chance),
        by which "auto" decides; NaN where it could not be judged.
    plane_ratio : ndarray
        ``(T, C)`` float64: how many times more slopes of tiles explain of these planes than they
        leave, by which "auto" decides as well (up to 9 is chance); 0 where the slopes are within
        their errors, NaN where it was not asked or could not be judged.
    shift : ndarray
        ``(T, C)`` float64 in pixels: how far a tile lies from where its WCS says, or rather from
        where most of its component does, by what its pairs see in common; too little beyond two
        cells of the grid, NaN where there are too few stars to tell.
    misplaced : ndarray
        ``(T, C)`` bool: suspects that lie beyond three quarters of a cell.
    """

    gain: np.ndarray
    gain_err: np.ndarray
    offset: np.ndarray
    offset_err: np.ndarray
    slope_x: np.ndarray
    slope_y: np.ndarray
    component: np.ndarray
    gain_group: np.ndarray
    pairs: np.ndarray
    planes: np.ndarray
    residual: np.ndarray
    gain_residual: np.ndarray
    chi: np.ndarray
    suspect: np.ndarray
    plane_chi2: np.ndarray
    plane_ratio: np.ndarray
    shift: np.ndarray
    misplaced: np.ndarray

    def correction(self, tile: int) -> Correction:
        """The correction of one tile."""
        return Correction(
            self.gain[tile], self.offset[tile], self.slope_x[tile], self.slope_y[tile]
        )


@dataclass(frozen=True, eq=False)
class Correction:
    """The correction of one tile, per channel.

    Parameters
    ----------
    gain, offset : ndarray
        ``(C,)``; offsets in ADU.
    slope_x, slope_y : ndarray or float
        ``(C,)`` in ADU per pixel about the tile's centre.
    """

    gain: np.ndarray
    offset: np.ndarray
    slope_x: np.ndarray | float = 0.0
    slope_y: np.ndarray | float = 0.0


def solve(
    i: np.ndarray,
    j: np.ndarray,
    measurements: Sequence[Sequence[Measurement]],
    sky: np.ndarray,
    model: str = "gain+offset",
    anchor: int | None = None,
    frame: TileFrame | None = None,
    repetition: np.ndarray | None = None,
) -> Solution:
    """Solve all tiles and channels.

    Parameters
    ----------
    i, j : ndarray
        ``(P,)`` int: the tiles of each pair.
    measurements : sequence
        ``P`` sequences of one measurement per channel.
    sky : ndarray
        ``(T, C)`` sky level of each tile in ADU; NaN for a tile that could not be read.
    model : str
        One of `zemosaic.settings.MODELS`.
    anchor : int or None
        The tile that keeps gain 1 and offset 0 in its component.
    frame : TileFrame or None
        Needed for planes; without it there are none.
    repetition : ndarray or None
        ``(P,)`` factors by which the variances of the pairs grow, since they share cells.
    """
    if repetition is None:
        repetition = np.ones(len(measurements))
    channels = [
        ChannelSolver(
            i, j, [m[c] for m in measurements], sky[:, c], model, anchor, frame, repetition
        ).solve()
        for c in range(sky.shape[1])
    ]
    stacked = {name: np.stack([c[name] for c in channels], axis=1) for name in channels[0]}
    missing = np.isnan(sky)
    for name in ("gain", "offset", "slope_x", "slope_y"):
        stacked[name][missing] = np.nan
    stacked["component"][missing] = stacked["gain_group"][missing] = -1
    return Solution(**stacked)


def solve_mosaic(
    graph: OverlapGraph,
    corners: np.ndarray,
    measurements: Sequence[Sequence[Measurement]],
    sky: np.ndarray,
    model: str,
    anchor: int | None,
    frame: TileFrame | None,
) -> Solution:
    """Solve a mosaic; with planes the others without the tiles that are misplaced.

    Where planes are free, they follow what a misplaced tile's pairs make of the scene's slopes.
    Without planes its weights alone keep it from the others, and its sky tells levels all the same.

    Parameters
    ----------
    graph : OverlapGraph
        Its pairs.
    corners : ndarray
        ``(T, 4, 2)`` as for `find_overlaps`.
    measurements, sky, model, anchor, frame
        As for `solve`.
    """

    def solved(part: OverlapGraph, some: Sequence[Sequence[Measurement]]) -> Solution:
        shared = repetition(part, corners)
        return solve(part.i, part.j, some, sky, model, anchor, frame, shared)

    found = solved(graph, measurements)
    bad = (found.misplaced & found.planes).any(axis=1)
    left = ~(bad[graph.i] | bad[graph.j])
    if not bad.any() or not left.any() or (anchor is not None and bad[anchor]):
        return found
    parts, whole = (
        component_labels(graph.tiles, graph.i[k], graph.j[k]) for k in (left, slice(None))
    )
    if len(np.unique(parts[~bad])) > len(np.unique(whole[~bad])):
        return found  # nothing else holds the others together
    some = [one for one, k in zip(measurements, left, strict=True) if k]
    return _replaced(found, solved(graph.keep(left), some), bad, left)


def _replaced(found: Solution, again: Solution, bad: np.ndarray, left: np.ndarray) -> Solution:
    """What was found again without the bad tiles, these in its gauge, and what is told of all."""
    names = ("gain", "offset", "slope_x", "slope_y", "gain_err", "offset_err", "planes")
    merged = {name: getattr(again, name).copy() for name in (*names, "plane_chi2", "plane_ratio")}
    for tile, channel in np.argwhere(np.broadcast_to(bad[:, np.newaxis], found.gain.shape)):
        at, component = (tile, channel), found.component[:, channel]
        others = ~bad & (component == component[tile])
        for name, values in merged.items():
            values[at] = getattr(found, name)[at]
        if others.any():
            before, now = found.gain[others, channel], again.gain[others, channel]
            factor = np.exp(np.median(np.log(now / before)))
            for name in names[:4]:
                merged[name][at] *= factor
            level = again.offset[others, channel] - factor * found.offset[others, channel]
            merged["offset"][at] += np.median(level)
    for name in ("residual", "gain_residual", "chi"):
        merged[name] = getattr(found, name).copy()
        merged[name][left] = getattr(again, name)
    return replace(found, **merged, suspect=again.suspect | found.misplaced)
