"""The stars of a tile and their fluxes in apertures, by photutils.

Two tiles compare the flux of a star only if their apertures have one size on the sky and hold the
same share of its light. The radii are therefore steps of one ladder on the sky, and each tile
measures the steps that suit its seeing.
"""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..tiles.sky import pixel_to_sky, unit_vectors
from ..tiles.tile import Tile

#: Ratio of a radius to the one before.
LADDER = 2.0 ** (1 / 3)
#: Radii that a tile measures: the smallest that suits its seeing, and so many in all.
STEPS = 3
#: Smallest radius in FWHM: a Gaussian star a tenth wider has 0.3 % less light within.
APERTURE_FWHM = 1.6
#: Inner and outer radius of the annulus of the background, in radii of the aperture.
ANNULUS = 1.5, 2.5
#: Peak of a star above the noise to be found, and its flux above its noise to be kept.
DETECTION, MIN_SIGNAL = 5.0, 5.0
#: Share of the highest star's peak from which on stars may be cut off or not linear.
NEAR_TOP = 0.8
#: Brightest stars of a tile to be kept.
MOST_STARS = 1000
#: FWHM in pixels with which stars are found first; stars from half to thrice as wide are found.
FIRST_FWHM = 3.0
#: FWHM of a Gaussian in standard deviations.
SIGMA_FWHM = math.sqrt(8 * math.log(2))
#: Brightest stars for the FWHM, and pixels for the noise.
FWHM_STARS, NOISE_PIXELS = 100, 1 << 18
#: Most pixels of an annulus to look at.
ANNULUS_PIXELS = 1024


@dataclass(frozen=True, eq=False)
class Stars:
    """The stars of a tile.

    Parameters
    ----------
    position : ndarray
        ``(N, 3)`` float64 unit vectors towards the stars (ICRS).
    fwhm : float
        FWHM of the stars in degrees; NaN without stars.
    first_step : int
        Number of the smallest radius, which is ``LADDER ** first_step`` arcseconds.
    flux, flux_err : ndarray
        ``(STEPS, C, N)`` float64 sums in ADU times square degrees, and their errors due to the
        noise of the sky. NaN for a star near the edge, missing pixels or the top of the range.
    """

    position: np.ndarray
    fwhm: float
    first_step: int
    flux: np.ndarray
    flux_err: np.ndarray

    def save(self, path: Path) -> int:
        """Write the stars to a file, and return its checksum."""
        file = io.BytesIO()
        np.savez(file, **vars(self))
        path.write_bytes(file.getvalue())
        return zlib.crc32(file.getvalue())

    @classmethod
    def load(cls, path: Path) -> Stars:
        """Read the stars from a file; raises `OSError` or `ValueError` if there are none."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        return cls(**arrays | {name: arrays[name].item() for name in ("fwhm", "first_step")})


def measure_stars(tile: Tile, blank: float | None = None) -> Stars:
    """Find the stars of a tile and measure their fluxes in every channel.

    Parameters
    ----------
    tile : Tile
        Any tile; needs photutils.
    blank : float or None
        Value of pixels without a datum.

    Returns
    -------
    Stars
        Without stars if none is bright enough, or the pixels show no noise.

    Raises
    ------
    TileError
        The file cannot be read to its end.
    """
    image = tile.pixels()
    if blank is not None:
        image[:, (image == blank).all(axis=0)] = np.nan
    xy, fwhm = _find_stars(image)
    if not len(xy):
        return Stars(np.empty((0, 3)), math.nan, 0, *np.empty((2, STEPS, len(image), 0)))
    area = _pixel_areas(tile, xy)
    scale = 3600 * math.sqrt(np.median(area))
    first_step = math.ceil(math.log(APERTURE_FWHM * fwhm * scale, LADDER))
    for plane in image:
        _drop_brightest(plane, xy)
    radii = [LADDER ** (first_step + step) / scale for step in range(STEPS)]
    measured = np.array([[_fluxes(plane, xy, radius) for plane in image] for radius in radii])
    flux, flux_err = np.moveaxis(measured, 2, 0) * area
    signal = np.nan_to_num(flux[0] / flux_err[0]).max(axis=0)
    order = np.argsort(-signal, kind="stable")[:MOST_STARS]
    kept = order[signal[order] > MIN_SIGNAL]
    return Stars(
        position=unit_vectors(np.deg2rad(pixel_to_sky(tile.wcs, xy[kept]))),
        fwhm=fwhm * scale / 3600,
        first_step=first_step,
        flux=flux[..., kept],
        flux_err=flux_err[..., kept],
    )


def _find_stars(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the positions of the stars ``(N, 2)``, x and y in pixels, and their FWHM in pixels."""
    white = image.mean(axis=0)
    nothing = np.empty((0, 2)), math.nan
    bad, noise = np.isnan(white), _noise(white)
    if not noise > 0:
        return nothing
    white[bad] = np.median(white[~bad])
    fwhm = FIRST_FWHM
    xy = _detect(white, bad, fwhm, DETECTION * noise)
    if not len(xy):
        return nothing
    fwhm = _measure_fwhm(white, xy, fwhm)
    if not 0.7 < fwhm / FIRST_FWHM < 1.4:
        refound = _detect(white, bad, fwhm, DETECTION * noise)
        xy = refound if len(refound) else xy
    return xy, fwhm


def _noise(image: np.ndarray) -> float:
    """Return the noise of an image from pixels four columns apart; NaN if there are none."""
    from astropy.stats import mad_std

    rows = max(1, image.size // NOISE_PIXELS)
    differences = image[::rows, 4:] - image[::rows, :-4]
    differences = differences[np.isfinite(differences)]
    return float(mad_std(differences)) / math.sqrt(2) if len(differences) else math.nan


def _detect(white: np.ndarray, bad: np.ndarray, fwhm: float, threshold: float) -> np.ndarray:
    """Return the positions of stars ``(N, 2)``, the brightest first."""
    import warnings

    from photutils.detection import DAOStarFinder
    from photutils.utils.exceptions import NoDetectionsWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        table = DAOStarFinder(threshold, fwhm)(white, mask=bad)
    if table is None:
        return np.empty((0, 2))
    xy = np.stack([table["x_centroid"], table["y_centroid"]], axis=1)
    return xy[np.argsort(-np.asarray(table["flux"]), kind="stable")]


def _measure_fwhm(white: np.ndarray, xy: np.ndarray, fwhm: float) -> float:
    """Return the median FWHM in pixels of the brightest stars, `fwhm` if none can be measured.

    The flux of a Gaussian is ``2 π σ²`` times its peak.
    """
    bright = xy[:FWHM_STARS]
    peak = _at(white, bright)
    for _ in range(3):
        flux, _, background = _sums(white, bright, 1.5 * fwhm)
        ratio = flux / (peak - background)
        ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
        if not len(ratio):
            return fwhm
        sigma = math.sqrt(float(np.median(ratio)) / (2 * math.pi))
        fwhm = min(max(SIGMA_FWHM * sigma, 1.0), 10 * FIRST_FWHM)
    return fwhm


def _drop_brightest(plane: np.ndarray, xy: np.ndarray) -> None:
    """Set the pixels of a channel that may be cut off to NaN."""
    peaks = _at(plane, xy)
    top = np.nanmax(peaks, initial=-np.inf)
    sky = np.nanmedian(plane)
    with np.errstate(invalid="ignore"):
        plane[plane > sky + NEAR_TOP * (top - sky)] = np.nan


def _at(plane: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Return the pixels of a channel nearest to the positions ``(N, 2)``."""
    x, y = np.rint(xy).astype(int).T
    return plane[y, x]


def _fluxes(plane: np.ndarray, xy: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return fluxes ``(N,)`` in ADU times pixels above the local sky, and their errors."""
    flux, noise, _ = _sums(plane, xy, radius)
    area = math.pi * radius**2
    sky_pixels = area * (ANNULUS[1] ** 2 - ANNULUS[0] ** 2)
    # The median has π / 2 times the variance of the mean.
    variance = area + math.pi / 2 * area**2 / min(sky_pixels, ANNULUS_PIXELS)
    return flux, noise * math.sqrt(variance)


def _sums(
    plane: np.ndarray, xy: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return fluxes ``(N,)`` in ADU times pixels, and the noise and the level of the sky in ADU.

    They are NaN for apertures with a missing pixel, or with less than half of their annuli.
    """
    import warnings

    from astropy.stats import mad_std
    from photutils.aperture import CircularAperture

    values = _annuli(plane, xy, radius)
    usable = np.isfinite(values).sum(axis=1) >= values.shape[1] / 2
    values[~usable] = 0.0  # without a warning of numpy; not used
    background = np.nanmedian(values, axis=1)
    noise = mad_std(values, axis=1, ignore_nan=True)
    far_edge = np.array(plane.shape[::-1]) - 0.5 - radius
    usable &= ((xy >= radius - 0.5) & (xy <= far_edge)).all(axis=1)
    with warnings.catch_warnings():
        # Until photutils 4; its replacement in 3.1 is not in 3.0.
        warnings.filterwarnings("ignore", "This function was deprecated")
        total, _ = CircularAperture(xy, radius).do_photometry(plane)
    sums = np.stack([total - math.pi * radius**2 * background, noise, background])
    flux, noise, background = np.where(usable, sums, np.nan)
    return flux, noise, background


def _annuli(plane: np.ndarray, xy: np.ndarray, radius: float) -> np.ndarray:
    """Return at most `ANNULUS_PIXELS` pixels of the annulus of each star; NaN beyond the edge."""
    inner, outer = (edge * radius for edge in ANNULUS)
    side = math.ceil(outer)
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    distance = np.hypot(x, y)
    chosen = (distance >= inner) & (distance <= outer)
    every = math.ceil(np.count_nonzero(chosen) / ANNULUS_PIXELS)
    offsets = np.stack([x[chosen], y[chosen]])[:, None, ::every]
    x, y = np.rint(xy).astype(int).T[..., None] + offsets
    height, width = plane.shape
    values = plane[y.clip(0, height - 1), x.clip(0, width - 1)]
    values[(x < 0) | (x >= width) | (y < 0) | (y >= height)] = np.nan
    return values


def _pixel_areas(tile: Tile, xy: np.ndarray) -> np.ndarray:
    """Return the areas ``(N,)`` of the pixels at the positions ``(N, 2)`` in square degrees."""
    corners = np.concatenate([xy, xy + np.array([1.0, 0.0]), xy + np.array([0.0, 1.0])])
    here, right, up = np.split(unit_vectors(np.deg2rad(pixel_to_sky(tile.wcs, corners))), 3)
    area = np.linalg.norm(np.cross(right - here, up - here), axis=1)
    return area * (180 / math.pi) ** 2
