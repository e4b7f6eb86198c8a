"""One gain and one offset per tile from a solution that may hold more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.linalg import lsqr

from ..photometry.pairfit.measurement import PairMeasurement
from ..photometry.solver.solve import TERMS
from ..pipeline.solution import PhaseSolution
from .arguments import Limits

#: Largest offset in ADU and range of gains that ZeMosaic applies by default.
APPLIED_OFFSET, APPLIED_GAIN = 50.0, (0.75, 1.25)
_LSQR_TOLERANCE = 1e-10


@dataclass(frozen=True, eq=False)
class Corrections:
    """Gains and offsets of T tiles in C channels, ``(T, C)`` float64; NaN for unusable tiles."""

    gain: np.ndarray
    offset: np.ndarray
    anchor: int | None = None


def reduce_solution(solution: PhaseSolution, weights: np.ndarray | None) -> Corrections:
    """Return gains and offsets alone, with the heaviest usable tile as the anchor.

    Surfaces, illumination and glow cannot be returned. Where the solution has some, the offsets
    are solved again, so that the levels of the overlaps agree as well as offsets can make them.

    Parameters
    ----------
    solution : PhaseSolution
        The solution of all tiles.
    weights : ndarray or None
        ``(T,)`` weights; without them no tile is an anchor.
    """
    gain, offset = solution.gain.copy(), solution.offset.copy()
    for channel in np.flatnonzero(_has_surfaces(solution)).tolist():
        offset[:, channel] = _refit_offsets(solution, channel)
    anchor = _anchor(solution, weights)
    if anchor is None:
        return Corrections(gain, offset)
    for channel in range(gain.shape[1]):
        same = solution.component[:, channel] == solution.component[anchor, channel]
        reference_gain, reference_offset = gain[anchor, channel], offset[anchor, channel]
        offset[same, channel] = (offset[same, channel] - reference_offset) / reference_gain
        gain[same, channel] /= reference_gain
    return Corrections(gain, offset, anchor)


def _anchor(solution: PhaseSolution, weights: np.ndarray | None) -> int | None:
    """Return the heaviest tile with a measured pair in every channel."""
    if weights is None:
        return None
    usable = (solution.pairs > 0).all(axis=1) & np.isfinite(solution.gain).all(axis=1)
    return int(np.argmax(np.where(usable, weights, -np.inf))) if usable.any() else None


def _has_surfaces(solution: PhaseSolution) -> np.ndarray:
    """Return for each channel whether it has terms besides gain and offset."""
    if solution.illuminations:
        return np.ones(solution.gain.shape[1], dtype=bool)
    surfaces = [np.nan_to_num(getattr(solution, name)) for name in TERMS[2:]]
    return np.any(np.stack(surfaces) != 0, axis=(0, 1))


def _refit_offsets(solution: PhaseSolution, channel: int) -> np.ndarray:
    """Return ``(T,)`` offsets that make the mean levels of the overlaps agree, weighted by area.

    The median change of a component's levels is 0.
    """
    gain, offset = solution.gain[:, channel], solution.offset[:, channel]
    pairs = [
        (record.i, record.j, record.area, line.x, line.y)
        for record in solution.records
        if isinstance(line := record.measurements[channel], PairMeasurement)
    ]
    if not pairs:
        return offset
    i, j, area, x, y = (np.array(column) for column in zip(*pairs, strict=True))
    weight = np.sqrt(area / area.max())
    difference = gain[j] * y + offset[j] - gain[i] * x - offset[i]
    rows = np.arange(len(pairs))
    matrix = coo_array(
        (
            np.concatenate([weight, -weight]),
            (np.concatenate([rows, rows]), np.concatenate([i, j])),
        ),
        shape=(len(pairs), len(gain)),
    ).tocsr()
    change = lsqr(matrix, weight * difference, atol=_LSQR_TOLERANCE, btol=_LSQR_TOLERANCE)[0]
    component = solution.component[:, channel]
    for label in np.unique(component[component >= 0]):
        change[component == label] -= np.median(change[component == label])
    return offset + change


def as_dict(corrections: Corrections, *, channels: bool) -> dict[int, tuple[object, object]]:
    """Return ``{index: (gain, offset)}``, per channel as lists, of the tiles with a gain."""
    finite = np.isfinite(corrections.gain).all(axis=1)
    terms = zip(corrections.gain.tolist(), corrections.offset.tolist(), strict=True)
    return {
        tile: (gain, offset) if channels else (gain[0], offset[0])
        for tile, (gain, offset) in enumerate(terms)
        if finite[tile]
    }


def limit_lines(corrections: Corrections, limits: Limits) -> Iterator[str]:
    """Yield a line if the default settings of ZeMosaic would cut or reduce the corrections."""
    gain = corrections.gain[np.isfinite(corrections.gain)]
    offset = corrections.offset[np.isfinite(corrections.offset)]
    largest, low, high = np.abs(offset).max(), gain.min(), gain.max()
    span = f"gains from {low:.3f} to {high:.3f}, offsets up to {largest:.0f}"
    if largest > APPLIED_OFFSET or low < APPLIED_GAIN[0] or high > APPLIED_GAIN[1]:
        yield (
            f"{span}: beyond the default limits of ZeMosaic, which would bring the seams back; set "
            f"intertile_offset_limit_adu to {np.ceil(1.5 * largest):.0f} or more, "
            f"intertile_gain_limits to [{0.7 * low:.2f}, {1.4 * high:.2f}], "
            "intertile_affine_blend to 1 and intertile_global_recenter to false"
        )
    clipped = low < limits.gain[0] or high > limits.gain[1]
    clipped |= offset.min() < limits.offset[0] or offset.max() > limits.offset[1]
    if clipped:
        yield (
            f"{span}: not clipped to gain_clip {list(limits.gain)} and offset_clip "
            f"{list(limits.offset)}, because clipped corrections leave seams"
        )
