"""The solution of one channel: gain, offset and, where needed, a plane for each tile.

``corrected = gain * data + offset + slope_x * (x - x0) + slope_y * (y - y0)`` shall agree in all
overlaps. For a pair with the line y = a·x + b, measured at the pivot p::

    log g_i - log g_j       = log a                          (first gains)
    P_i(p) - P_j(p)         = g_j·y - g_i·x                  (then levels, at the pivots)
    grad P_i - grad P_j     = g_j·grad y - g_i·grad x        (and slopes, with planes)

Here P_k is the offset, or offset and plane, of tile k. Each line states differences of potentials
on the graph of overlaps: a sparse weighted least-squares problem in each connected component, in
which pairs that contradict all others lose their weight. Without planes, gains and levels are then
refined together.

The gauge sets what the differences leave free. The geometric mean of the gains is 1 and the median
sky level does not change, or an anchor tile keeps gain 1 and offset 0. The mean slope is 0, over
all tiles but those with the slope of a cloud, so no global plane is introduced.

In the model "auto" the tilts of the pairs decide for each component whether its tiles have planes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .channel import DISTRUST, MOST_TILES, Channel, spread
from .gains import GainSolution, solve_gains
from .gauge import in_reference_group, keep_sky_level
from .joint import refine_jointly
from .levels import LevelSolution, solve_levels
from .plane_test import choose_planes, plane_evidence
from .suspects import find_suspects, tied_by_suspects
from .tile_shifts import MISPLACED, distance_in_pixels, tile_shifts


@dataclass(frozen=True, eq=False)
class ChannelSolution:
    """The fields of a `Solution` for one channel, without the channel axis."""

    gain: np.ndarray
    gain_err: np.ndarray
    offset: np.ndarray
    offset_err: np.ndarray
    slope_x: np.ndarray
    slope_y: np.ndarray
    curve_xx: np.ndarray
    curve_xy: np.ndarray
    curve_yy: np.ndarray
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

    def in_adu(self, unit: float) -> ChannelSolution:
        """Convert a solution in units of `unit` ADU."""
        names = ("offset", "offset_err", "slope_x", "slope_y", "residual")
        return replace(self, **{name: unit * getattr(self, name) for name in names})


def solve_channel(channel: Channel) -> ChannelSolution:
    """Solve one channel, in its own unit.

    If the gain of a tile is tied to the others only by suspects, drop these measurements, solve
    again and report its gain as unknown: it would be as wrong as they are.
    """
    solution = _solve_once(channel)
    loose, dropped = _loose_gains(channel, solution)
    if not dropped.any():
        return solution
    again = _solve_once(replace(channel, pairs=channel.pairs.distrust(dropped)))
    chi = again.chi.copy()
    chi[np.flatnonzero(channel.measured)[dropped]] *= DISTRUST
    return replace(again, chi=chi, suspect=again.suspect | (solution.suspect & ~loose))


def _loose_gains(channel: Channel, solution: ChannelSolution) -> tuple[np.ndarray, np.ndarray]:
    """Find tiles ``(T,)`` with a gain tied by suspects only, and their pairs ``(P,)`` to them.

    There are none in a model that holds the gains.
    """
    i, j, measured = channel.pairs.i, channel.pairs.j, channel.measured
    # Levels of tiles whose gains are not comparable contradict each other without a fault.
    comparable = solution.gain_group[i] == solution.gain_group[j]
    suspect = find_suspects(channel, np.where(comparable, solution.chi[measured], 0.0))
    suspect &= channel.gains_are_free
    used = np.isfinite(solution.gain_residual[measured])
    loose = tied_by_suspects(channel, used, solution.gain_group, suspect)
    return loose, (loose[i] & suspect[j]) | (suspect[i] & loose[j])


def _solve_once(channel: Channel) -> ChannelSolution:
    """Solve for gains, then levels and planes, then gains and levels together."""
    evidence = plane_evidence(channel)
    planes = choose_planes(channel, evidence)
    gains = solve_gains(channel, planes)
    channel = _without_loose_levels(channel, gains, planes)
    levels = solve_levels(channel, gains, planes)
    chi = np.fmax(levels.chi, gains.chi)
    suspect = find_suspects(channel, chi)
    separate = levels
    gains, levels = refine_jointly(channel, gains, levels, planes, suspect)
    if levels is separate and channel.mixed_gains.any():
        return _solve_once(replace(channel, ties=channel.ties.untie_levels(channel.mixed_gains)))
    own_pairs = _pairs_of_tiles(channel)
    no_gain = _sums(own_pairs, channel.ties.gain) == 0
    no_level = _sums(own_pairs, channel.ties.level) == 0
    alone = no_gain & no_level
    shift, misplaced = _positions(channel)
    return ChannelSolution(
        gain=np.where(no_gain, 1.0, gains.gain),
        gain_err=np.where(no_gain, np.nan, _gain_errors(channel, gains)),
        offset=np.where(alone, 0.0, _offsets(channel, gains, levels)),
        offset_err=np.where(no_level, np.nan, _offset_errors(gains, levels)),
        slope_x=np.where(alone, 0.0, levels.slope[:, 0]),
        slope_y=np.where(alone, 0.0, levels.slope[:, 1]),
        curve_xx=np.zeros(channel.tiles),
        curve_xy=np.zeros(channel.tiles),
        curve_yy=np.zeros(channel.tiles),
        component=channel.component,
        gain_group=gains.group if channel.gains_are_free else channel.component,
        pairs=own_pairs,
        planes=planes & ~alone,
        residual=spread(-levels.residual, channel.measured),
        gain_residual=spread(gains.residual, channel.measured),
        chi=spread(chi, channel.measured),
        suspect=suspect | misplaced,
        plane_chi2=evidence.chi2,
        plane_ratio=evidence.ratio,
        shift=shift,
        misplaced=misplaced,
    )


def _without_loose_levels(channel: Channel, gains: GainSolution, planes: np.ndarray) -> Channel:
    """Untie the levels of tiles with different gains unless these are solved with the levels.

    The error of a gain, taken for exact, would move the common level by far more than its error.
    """
    tied = in_reference_group(gains.group, channel.component, channel.anchor) & ~planes
    loose = channel.mixed_gains & ~tied & (_pairs_of_tiles(channel) > 0)
    return replace(channel, ties=channel.ties.untie_levels(loose)) if loose.any() else channel


def _pairs_of_tiles(channel: Channel) -> np.ndarray:
    """Count the measured pairs ``(T,)`` of each tile."""
    return np.bincount(np.r_[channel.pairs.i, channel.pairs.j], minlength=channel.tiles)


def _sums(values: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Sum values ``(T,)`` over the tiles that share a node."""
    return np.bincount(node, values, minlength=len(node))[node]


def _offsets(channel: Channel, gains: GainSolution, levels: LevelSolution) -> np.ndarray:
    """Compute the offsets ``(T,)`` in ADU, with the gauge set."""
    offset = levels.level - gains.gain * levels.reference
    if not channel.offsets_are_free:
        return offset
    return keep_sky_level(offset, gains.gain, channel.sky, channel.component, channel.anchor)


def _gain_errors(channel: Channel, gains: GainSolution) -> np.ndarray:
    """Compute the standard errors ``(T,)`` of the gains; NaN outside the reference group."""
    if not channel.gains_are_free:
        return np.zeros(channel.tiles)
    tied = in_reference_group(gains.group, channel.component, channel.anchor)
    return np.where(tied, gains.gain * np.sqrt(gains.variance), np.nan)


def _offset_errors(gains: GainSolution, levels: LevelSolution) -> np.ndarray:
    """Compute the standard errors ``(T,)`` of the offsets in ADU.

    The error of a gain moves the offset in proportion to the level at which the tile was measured.
    """
    by_gain = np.nan_to_num(gains.variance) * (gains.gain * levels.reference) ** 2
    return np.sqrt(levels.variance + by_gain)


def _positions(channel: Channel) -> tuple[np.ndarray, np.ndarray]:
    """Return shifts ``(T,)`` from the WCS in pixels, and which tiles are misplaced."""
    pairs, shifts = channel.pairs, np.full((channel.tiles, 2), np.nan)
    if channel.tiles <= MOST_TILES:
        shifts = tile_shifts(channel.tiles, pairs.i, pairs.j, pairs.shift, pairs.shift_err)
    pixels = np.full(channel.tiles, np.nan)
    if channel.frame is not None:
        pixels = distance_in_pixels(shifts, channel.frame.jacobian)
    return pixels, np.hypot(*shifts.T) > MISPLACED
