"""The description of a simulated mosaic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from ...errors import UserError


class RandomStream(IntEnum):
    """Independent random numbers of a scene, so that options do not change one another's."""

    TILE = 1
    LAYOUT = 2
    SKY = 3
    NOISE = 4
    TRAIL = 5
    SURFACE = 6
    INSTRUMENT = 7
    FLAT = 8


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The sky, the layout of the tiles and their defects.

    Parameters
    ----------
    tiles : int
        Number of tiles, laid out on a grid as square as possible.
    shape : tuple of int
        Height and width of a tile in pixels.
    overlap : float
        Overlap of neighbours on the grid, as a fraction of a side.
    rotation : float
        Largest rotation of a tile in degrees, in either direction.
    gains : tuple of float
        Range of the factors by which the data of the tiles is multiplied.
    offset : float
        Largest absolute offset of the data of a tile in ADU.
    sky : float
        Sky level in ADU.
    stars : float
        Stars per square pixel of the sky.
    fluxes : tuple of float
        Smallest and largest flux of a star in ADU; between them they follow a power law. The
        default keeps peaks below 3e4 ADU. Stars of flux 0 leave the rest of the sky as it is.
    nebula : float
        Peak of the nebulosity in ADU.
    fwhm, seeing : float
        Mean FWHM of a star in pixels, and the largest relative deviation of a tile from it.
    electrons, read_noise : float
        Electrons per ADU for Poisson noise and read noise in ADU; 0 electrons: no noise at all.
    gradient : bool or float
        Largest change of the sky gradient of a tile in ADU, from corner to corner; True is 60.
    quadratic : float
        Scale in ADU of the five coefficients of a surface of second order on each tile, whose
        coordinates run from -1 to 1.
    sky_scatter : float
        Standard deviation in ADU of the light by which the skies of the tiles differ.
    lamp : float
        Light of a lamp beside each tile, in ADU at its centre; it grows by a factor of 3.7 over
        half a side, in a direction of its own.
    vignetting : float
        Fraction of the light lost in the corners of all tiles, 0 near their centre.
    quartic : bool
        Half of the vignetting grows with the fourth power of the radius, not the second.
    flat_residual, flat_scale : float
        Rms of the flat's residual, as a fraction of the light, and its scale in pixels.
    flat_shared : bool
        All tiles have the same residual of the flat; otherwise each has its own.
    glow : float
        Glow of an amplifier at the right side of all tiles: its peak in ADU of the data.
    saturation : float
        Largest value of the data in ADU, where the detector clips.
    trail, border, bad, sip, rgb : bool
        Options: a satellite trail on every third tile, ragged borders, a cloud over the second
        tile, SIP distortion, and three colours with individual gains.
    blank : float
        Value of the pixels in the borders.
    islands : int
        Number of separate groups of tiles; 1 is one connected mosaic.
    centre : tuple of float
        Right ascension and declination of the centre in degrees.
    scale : float
        Side of a pixel in degrees.
    seed : int
        Seed of all random numbers.

    Raises
    ------
    UserError
        A value is out of range.
    """

    tiles: int = 12
    shape: tuple[int, int] = (360, 480)
    overlap: float = 0.25
    rotation: float = 3.0
    gains: tuple[float, float] = (0.85, 1.15)
    offset: float = 200.0
    sky: float = 1000.0
    stars: float = 1.5e-3
    fluxes: tuple[float, float] = (800.0, 4e5)
    nebula: float = 400.0
    fwhm: float = 3.5
    seeing: float = 0.1
    electrons: float = 10.0
    read_noise: float = 5.0
    gradient: bool | float = False
    quadratic: float = 0.0
    sky_scatter: float = 0.0
    lamp: float = 0.0
    vignetting: float = 0.0
    quartic: bool = False
    flat_residual: float = 0.0
    flat_scale: float = 40.0
    flat_shared: bool = True
    glow: float = 0.0
    saturation: float = np.inf
    trail: bool = False
    border: bool = False
    bad: bool = False
    sip: bool = False
    rgb: bool = False
    blank: float = np.nan
    islands: int = 1
    centre: tuple[float, float] = (192.72, 41.12)
    scale: float = 6.6e-4
    seed: int = 1

    def __post_init__(self) -> None:
        if self.tiles < 1 or min(self.shape) < 16:
            raise UserError("a scene needs at least 1 tile of at least 16 x 16 pixels")
        for name in (
            "rotation",
            "seeing",
            "fwhm",
            "gradient",
            "quadratic",
            "lamp",
            "glow",
            "sky_scatter",
        ):
            if not np.isfinite(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)}; give a number")
        if not 1 <= self.islands <= self.tiles:
            raise UserError(f"{self.islands} islands cannot be made of {self.tiles} tiles")
        if not 0.0 <= self.overlap < 1.0:
            raise UserError(f"overlap is {self.overlap}; give a fraction from 0 to below 1")
        if not 0.0 <= self.vignetting < 0.5:
            raise UserError(f"vignetting is {self.vignetting}; give a fraction from 0 to below 0.5")
        if not 0.0 <= self.flat_residual < 0.2:
            raise UserError(
                f"flat_residual is {self.flat_residual}; give a fraction from 0 to below 0.2"
            )

    @property
    def channels(self) -> int:
        """Number of colour channels."""
        return 3 if self.rgb else 1

    def random(self, stream: RandomStream, *index: int) -> np.random.Generator:
        """Return the random numbers of a stream, or of one tile's part of it."""
        return np.random.default_rng([self.seed, int(stream), *index])
