"""The lattice of units and areas over an overlap, and the figures of a fit's bands on it.

As in `layout`, C are the channels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

AREAS = 16  # largest number of areas of an overlap
SMALL, MIDDLE = 0, 1  # bands


class Lattice(NamedTuple):
    """Units of 16 pixels or more over the frame of fit blocks, and areas over the units.

    Contrast within units is the small band of a gain, contrast between the units of an area the
    middle band, and the means of the areas are the levels.

    Parameters
    ----------
    unit_blocks : int
        Fit blocks along a unit: 1, or 4 where these are single cells; 0 for a single area whose
        contrast is not split.
    frame_columns : int
        Fit blocks along a row of the frame.
    shift_u, shift_v : int
        Fit blocks from the corner of the first unit to the corner of the frame.
    units_u, units_v : int
        Units along u and v.
    areas_u, areas_v : int
        Areas along u and v, at most `AREAS` together.
    """

    unit_blocks: int
    frame_columns: int
    shift_u: int
    shift_v: int
    units_u: int
    units_v: int
    areas_u: int
    areas_v: int

    def for_design(self, scene: bool) -> Lattice:
        """Return the lattice for a design with terms of the scene, or a single area without."""
        return self if scene else self._replace(unit_blocks=0)

    def band_rows(self, blocks: int, samples: int) -> tuple[int, int]:
        """Return the number of rows of the small and of the middle band."""
        if self.unit_blocks == 0:
            return 0, samples
        if self.unit_blocks == 1:
            return samples - blocks, blocks
        return blocks, self.units_u * self.units_v


class Band(NamedTuple):
    """The line through the contrast of one band, in numbers.

    Parameters
    ----------
    slope : float
        0 without contrast.
    information, norm : float
        Weighted products of the instrument with x and with itself, less its noise.
    square, area_square : float
        Sums of the squares of the products with the residuals, over patches and over areas.
    scale : float
        Robust standard deviation of the residuals in units of the expected one; 0 if there are too
        few.
    concentration, common : float
        Sum of the squares of the shares of single patches in the norm, and the sum of the
        products of these shares in both bands.
    """

    slope: float
    information: float
    norm: float
    square: float
    area_square: float
    scale: float
    concentration: float
    common: float


class BandSums(NamedTuple):
    """The gain of each channel in bands, and its levels by area.

    Parameters
    ----------
    bands : ndarray
        ``(C, 2, 8)`` numbers of the small and of the middle band; see `Band`.
    shares : ndarray
        ``(C, 2, 16)`` norm of each band in each area.
    levels : ndarray
        ``(C, 16, 12)`` weighted means of u, v, x and y over the blocks of each area, the
        covariances uu, uv and vv of their positions and xu, xv, yu and yv of their levels with
        these, and their weight; 0 in areas without blocks.
    """

    bands: np.ndarray
    shares: np.ndarray
    levels: np.ndarray

    @classmethod
    def empty(cls, channels: int) -> BandSums:
        """Return arrays without values."""
        return cls(
            np.empty((channels, 2, len(Band._fields))),
            np.empty((channels, 2, AREAS)),
            np.empty((channels, AREAS, 12)),
        )
