"""Corrections of all tiles and channels from the measurements of their pairs.

Each channel is solved separately, by `zemosaic.photometry.solver.channel_solver`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ...errors import NoSolution
from ..illumination import Illumination, Instruments
from ..pairfit.measurement import Measurement
from .channel import Channel, TileFrame
from .channel_pairs import MeasuredPairs
from .channel_solver import ChannelSolution, solve_channel
from .shared_terms import illuminations
from .spreads import Spreads
from .surfaces import SURFACE_POWERS
from .ties import Ties

#: Fields of the solution that are terms of a tile's correction.
TERMS = ("gain", "offset", "bias", *SURFACE_POWERS)

#: Fields of a `ChannelSolution` other than arrays over tiles or pairs.
OF_CHANNELS = ("spreads", "shared")


@dataclass(frozen=True, eq=False)
class Solution:
    """Corrections of T tiles in C channels, and the residuals of P pairs.

    ``corrected = (gain * (data - glow) + offset - bias) / F + bias + surface`` with the
    illumination F and the glow of the tile's instrument, 1 and 0 if there are none, and
    ``surface = slope_x * x + slope_y * y + curve_xx * x**2 + curve_xy * x * y + curve_yy * y**2 +
    cubic_xxx * x**3 + ...`` in pixels x, y from the centre of the tile.

    Parameters
    ----------
    gain, offset : ndarray
        ``(T, C)`` float64; offsets in ADU. A tile without a measured pair has gain 1 and offset 0;
        an unreadable tile has NaN.
    gain_err, offset_err : ndarray
        ``(T, C)`` float64 standard errors within the component, under the gauge; NaN if
        unknown: without a measured pair, or for a gain that no pair ties to most of its
        component.
    bias : ndarray
        ``(T, C)`` float64 level in ADU that is no light, on which F does not act; 0 without F. It
        is lower for a tile with a brighter sky.
    slope_x, slope_y : ndarray
        ``(T, C)`` float64 in ADU per pixel of the tile; 0 without a surface.
    curve_xx, curve_xy, curve_yy : ndarray
        ``(T, C)`` float64 in ADU per square pixel of the tile; 0 without a second order.
    cubic_xxx, cubic_xxy, cubic_xyy, cubic_yyy : ndarray
        ``(T, C)`` float64 in ADU per cubic pixel of the tile; 0 without a third order.
    quartic_xxxx, quartic_xxxy, quartic_xxyy, quartic_xyyy, quartic_yyyy : ndarray
        ``(T, C)`` float64 in ADU per pixel to the fourth power; 0 without a fourth order.
    component : ndarray
        ``(T, C)`` int: tiles of one component are matched to each other. The relation of two
        components is unknown. -1 for an unreadable tile.
    gain_group : ndarray
        ``(T, C)`` int: tiles joined by pairs with a measured gain. In a component with several
        groups the levels agree, but the relation of the gains of two groups is unknown, and each
        group keeps a mean gain of 1. -1 for an unreadable tile.
    pairs : ndarray
        ``(T, C)`` int: number of measured pairs of each tile.
    planes : ndarray
        ``(T, C)`` bool: whether the tile has a surface.
    residual : ndarray
        ``(P, C)`` float64: level residual of each pair at its pivot in ADU, after correction;
        NaN if the pair was not measured.
    gain_residual : ndarray
        ``(P, C)`` float64: residual of each pair's log-gain; NaN if it was not measured.
    seam_err : ndarray
        ``(P, C)`` float64: standard error in ADU of the mean difference of both corrected tiles in
        their overlap; NaN if the pair was not measured.
    chi : ndarray
        ``(P, C)`` float64: the largest residual in units of its error, of the gain, the level or
        the patches; NaN if the pair was not measured.
    suspect : ndarray
        ``(T, C)`` bool: tiles with most pairs contradicting all others (a cloud, a wrong WCS).
    shift : ndarray
        ``(T, C)`` float64: distance in pixels of the tile from its position by the WCS, relative
        to most of its component; underestimated beyond two cells of the grid, NaN with too few
        stars.
    misplaced : ndarray
        ``(T, C)`` bool: suspects that are shifted by more than three quarters of a cell.
    illuminations : tuple of Illumination
        One for each instrument with a shared illumination or glow.
    spreads : tuple of Spreads
        Typical sizes of each class of terms, of each channel.
    """

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
    illuminations: tuple[Illumination, ...]
    spreads: tuple[Spreads, ...]

    def correction(self, tile: int) -> Correction:
        """Return the correction of one tile."""
        terms = {name: getattr(self, name)[tile] for name in TERMS}
        shared = (light for light in self.illuminations if tile in light.tiles)
        return Correction(**terms, illumination=next(shared, None))


@dataclass(frozen=True, eq=False)
class Correction:
    """Correction of one tile in C channels.

    Parameters
    ----------
    gain, offset : ndarray
        ``(C,)`` float64; offsets in ADU.
    slope_x, slope_y, curve_xx, curve_xy, curve_yy, cubic_xxx, cubic_xxy, cubic_xyy, cubic_yyy, \
            quartic_xxxx, quartic_xxxy, quartic_xxyy, quartic_xyyy, quartic_yyyy : ndarray or float
        ``(C,)`` float64 in ADU per pixel to the power of each order, about the centre of the tile.
    bias : ndarray or float
        ``(C,)`` float64 level in ADU that is no light.
    illumination : Illumination or None
        Illumination and glow of the tile's instrument.
    """

    gain: np.ndarray
    offset: np.ndarray
    slope_x: np.ndarray | float = 0.0
    slope_y: np.ndarray | float = 0.0
    curve_xx: np.ndarray | float = 0.0
    curve_xy: np.ndarray | float = 0.0
    curve_yy: np.ndarray | float = 0.0
    cubic_xxx: np.ndarray | float = 0.0
    cubic_xxy: np.ndarray | float = 0.0
    cubic_xyy: np.ndarray | float = 0.0
    cubic_yyy: np.ndarray | float = 0.0
    quartic_xxxx: np.ndarray | float = 0.0
    quartic_xxxy: np.ndarray | float = 0.0
    quartic_xxyy: np.ndarray | float = 0.0
    quartic_xyyy: np.ndarray | float = 0.0
    quartic_yyyy: np.ndarray | float = 0.0
    bias: np.ndarray | float = 0.0
    illumination: Illumination | None = None


def solve(
    i: np.ndarray,
    j: np.ndarray,
    measurements: Sequence[Sequence[Measurement]] | Sequence[MeasuredPairs],
    sky: np.ndarray,
    model: str = "gain+offset",
    anchor: int | None = None,
    frame: TileFrame | None = None,
    repetition: np.ndarray | None = None,
    ties: Ties | None = None,
    instruments: Instruments | None = None,
    different: np.ndarray | None = None,
) -> Solution:
    """Solve for the corrections of all tiles and channels.

    Parameters
    ----------
    i, j : ndarray
        ``(P,)`` int tiles of each pair.
    measurements : sequence
        ``P`` sequences of one measurement per channel, or the measured pairs of each of ``C``
        channels.
    sky : ndarray
        ``(T, C)`` sky level of each tile in ADU; NaN for an unreadable tile.
    model : str
        One of `zemosaic.settings.MODELS`.
    anchor : int or None
        The tile that keeps gain 1 and offset 0 in its component.
    frame : TileFrame or None
        Positions of the tiles; without it there are no planes.
    repetition : ndarray or None
        ``(P,)`` factors on the variances of the pairs, which share cells; see
        `zemosaic.photometry.overlap.graph.repetition`.
    ties : Ties or None
        Groups of tiles sharing a gain or a level.
    instruments : Instruments or None
        Tiles sharing an illumination and a glow.
    different : ndarray or None
        ``(P,)`` bool: pairs that do not show the same sky. Their gains are not used, and their
        levels only where nothing else joins their tiles.

    Returns
    -------
    Solution

    Raises
    ------
    NoSolution
        The pairs have no finite solution.
    """
    if repetition is None:
        repetition = np.ones(len(i))
    channels = [
        Channel.of(
            i,
            j,
            measured,
            repetition,
            sky=sky[:, c],
            model=model,
            anchor=anchor,
            frame=frame,
            ties=ties,
            instruments=instruments,
            different=different,
        )
        for c, measured in enumerate(_by_channel(measurements, sky.shape[1]))
    ]
    try:
        solutions = [solve_channel(channel).in_adu(channel.pairs.unit) for channel in channels]
    except np.linalg.LinAlgError:
        raise NoSolution(
            "these tiles have no finite gains and levels; leave out those that differ most from "
            "the others, or hold the gains with --model offset"
        ) from None
    names = [field.name for field in fields(ChannelSolution) if field.name not in OF_CHANNELS]
    stacked = {name: np.stack([getattr(s, name) for s in solutions], axis=1) for name in names}
    unreadable = np.isnan(sky)
    for name in TERMS:
        stacked[name][unreadable] = np.nan
    stacked["component"][unreadable] = stacked["gain_group"][unreadable] = -1
    shared: tuple[Illumination, ...] = ()
    if instruments is not None and frame is not None:
        shared = illuminations([s.shared for s in solutions], instruments, frame.shape)
    return Solution(**stacked, illuminations=shared, spreads=tuple(s.spreads for s in solutions))


def _by_channel(
    measurements: Sequence[Sequence[Measurement]] | Sequence[MeasuredPairs], channels: int
) -> list[MeasuredPairs]:
    """Return the measured pairs of each channel."""
    arrays = [given for given in measurements if isinstance(given, MeasuredPairs)]
    objects = [given for given in measurements if not isinstance(given, MeasuredPairs)]
    return arrays or [
        MeasuredPairs.of((of_pair[c] for of_pair in objects), len(objects)) for c in range(channels)
    ]
