"""The solution of one channel: gain, offset and surface for each tile, and the shared terms.

``corrected = (gain * (data - glow) + offset - bias) / F + bias + surface`` shall agree in all
overlaps, with the illumination F and the glow of the tile's instrument, and its bias. `pair_rows`
states the equations, `hierarchy` solves them for all terms together, and estimates the typical size
of each class of terms, by which terms that the overlaps do not show are shrunk.

The gauge sets the scale and the level that the overlaps leave free. The geometric mean of the gains
is 1 and the median sky level does not change, or an anchor tile keeps gain 1 and offset 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .channel import Channel, spread
from .channel_pairs import DISTRUST
from .errors import seam_errors, tile_errors
from .fit import Fit
from .gauge import anchored, in_reference_group
from .hierarchy import fit_hierarchy
from .initial import reference_levels
from .shared_terms import SharedTerms
from .spreads import Spreads
from .surfaces import SURFACE_POWERS, pixel_polynomials
from .suspects import find_suspects, suspect_limit, tied_by_suspects
from .tile_shifts import MISPLACED, distance_in_pixels, tile_shifts


@dataclass(frozen=True, eq=False)
class ChannelSolution:
    """The fields of a `Solution` for one channel, without the channel axis."""

    gain: np.ndarray
    gain_err: np.ndarray
    offset: np.ndarray
    offset_err: np.ndarray
    bias: np.ndarray
    slope_x: np.ndarray
    slope_y: np.ndarray
    curve_xx: np.ndarray
    curve_xy: np.ndarray
    curve_yy: np.ndarray
    cubic_xxx: np.ndarray
    cubic_xxy: np.ndarray
    cubic_xyy: np.ndarray
    cubic_yyy: np.ndarray
    quartic_xxxx: np.ndarray
    quartic_xxxy: np.ndarray
    quartic_xxyy: np.ndarray
    quartic_xyyy: np.ndarray
    quartic_yyyy: np.ndarray
    component: np.ndarray
    gain_group: np.ndarray
    pairs: np.ndarray
    planes: np.ndarray
    residual: np.ndarray
    gain_residual: np.ndarray
    seam_err: np.ndarray
    chi: np.ndarray
    suspect: np.ndarray
    shift: np.ndarray
    misplaced: np.ndarray
    spreads: Spreads
    shared: SharedTerms

    def in_adu(self, unit: float) -> ChannelSolution:
        """Convert a solution in units of `unit` ADU."""
        names = ("offset", "offset_err", "bias", *SURFACE_POWERS, "residual", "seam_err")
        return replace(
            self,
            **{name: unit * getattr(self, name) for name in names},
            spreads=self.spreads.in_adu(unit),
            shared=self.shared.in_adu(unit),
        )


def solve_channel(channel: Channel) -> ChannelSolution:
    """Solve one channel, in its own unit.

    If the gain of a tile is tied to the others only by suspects, drop these measurements, solve
    again and report its gain as unknown: it would be as wrong as they are. Tiles sharing their
    level but not their gain are tied only where their gains are comparable.
    """
    comparable = in_reference_group(channel.gain_group, channel.component, channel.anchor)
    loose = channel.mixed_gains & ~comparable & (_pairs_of_tiles(channel) > 0)
    if loose.any():
        channel = replace(channel, ties=channel.ties.untie_levels(loose))
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
    suspect = solution.suspect & channel.gains_are_free
    used, chi = np.isfinite(solution.gain_residual[measured]), solution.chi[measured]
    agreeing = chi <= suspect_limit(chi)
    loose = tied_by_suspects(channel, used, agreeing, solution.gain_group, suspect)
    return loose, (loose[i] & suspect[j]) | (suspect[i] & loose[j])


def _solve_once(channel: Channel) -> ChannelSolution:
    """Solve for all terms together, and compute their errors."""
    reference = reference_levels(channel)
    shift, misplaced = _positions(channel)
    fit = fit_hierarchy(channel, reference, misplaced)
    residuals, own_pairs = fit.residuals, _pairs_of_tiles(channel)
    terms, level_residual = _terms(channel, fit, reference, own_pairs), residuals.level
    seam_err = seam_errors(fit)
    shared = SharedTerms.of(fit.state, fit.columns, fit.normal)
    if channel.anchor is not None:
        unit, terms = anchored(channel, channel.anchor, terms, _lit(channel, fit))
        level_residual = level_residual / unit[channel.pairs.i]
        seam_err = seam_err / unit[channel.pairs.i]
    return ChannelSolution(
        **terms,
        component=channel.component,
        gain_group=channel.gain_group,
        pairs=own_pairs,
        planes=np.full(channel.tiles, fit.columns.active.surface.any()) & (own_pairs > 0),
        residual=spread(level_residual, channel.measured),
        gain_residual=spread(residuals.log_gain, channel.measured),
        seam_err=spread(seam_err, channel.measured),
        chi=spread(residuals.chi, channel.measured),
        suspect=find_suspects(channel, residuals.chi, fit.doubtful) | misplaced,
        shift=shift,
        misplaced=misplaced,
        spreads=fit.spreads,
        shared=shared,
    )


def _terms(
    channel: Channel, fit: Fit, reference: np.ndarray, own_pairs: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the correction ``(T,)`` of each tile with its errors; 1 and 0 without any pair."""
    no_gain = _sums(own_pairs, channel.ties.gain) == 0
    no_level = _sums(own_pairs, channel.ties.level) == 0
    gain = np.where(no_gain, 1.0, np.exp(fit.state.log_gain))
    log_gain_err, offset_err = tile_errors(channel, fit, reference)
    tied = in_reference_group(channel.gain_group, channel.component, channel.anchor)
    surface = _surface_terms(channel, fit)
    surface["offset"] = fit.state.level + surface.pop("level") - gain * reference
    alone = no_gain & no_level
    return {
        "gain": gain,
        "gain_err": np.where(no_gain | ~tied, np.nan, gain * log_gain_err),
        "offset_err": np.where(no_level, np.nan, offset_err),
        "bias": np.where(_lit(channel, fit), fit.state.biases(channel.instruments.labels), 0.0),
        **{name: np.where(alone, 0.0, values) for name, values in surface.items()},
    }


def _lit(channel: Channel, fit: Fit) -> np.ndarray:
    """Return whether each tile ``(T,)`` has an illumination."""
    return np.asarray((channel.instruments.labels >= 0) & fit.state.log_flat.any())


def _pairs_of_tiles(channel: Channel) -> np.ndarray:
    """Count the measured pairs ``(T,)`` of each tile."""
    return np.bincount(np.r_[channel.pairs.i, channel.pairs.j], minlength=channel.tiles)


def _sums(values: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Sum values ``(T,)`` over the tiles sharing a node."""
    return np.bincount(node, values, minlength=len(node))[node]


def _surface_terms(channel: Channel, fit: Fit) -> dict[str, np.ndarray]:
    """Return the terms ``(T,)`` of the surfaces in pixels, and their level at the centre."""
    names = ("level", *SURFACE_POWERS)
    if channel.frame is None or not fit.columns.active.surface.any():
        return dict.fromkeys(names, np.zeros(channel.tiles))
    frame = channel.frame
    origin = frame.centre[channel.ties.level]
    terms = pixel_polynomials(fit.state.surface, frame, origin, fit.half_tile)
    return dict(zip(names, terms.T, strict=True))


def _positions(channel: Channel) -> tuple[np.ndarray, np.ndarray]:
    """Return shifts ``(T,)`` from the WCS in pixels, and which tiles are misplaced."""
    pairs = channel.pairs
    shifts = tile_shifts(channel.dissection, pairs.i, pairs.j, pairs.shift, pairs.shift_err)
    pixels = np.full(channel.tiles, np.nan)
    if channel.frame is not None:
        pixels = distance_in_pixels(shifts, channel.frame.jacobian)
    return pixels, np.hypot(*shifts.T) > MISPLACED
