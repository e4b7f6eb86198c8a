"""The light of stars and nebulosity in the pixels of a tile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from scipy.ndimage import spline_filter
from scipy.special import erf

from ..tiles.sky import pixel_scale, unit_vectors
from .sky import Clouds, Stars

SIGMA_PER_FWHM = 1 / np.sqrt(8 * np.log(2))
#: Surface brightness in ADU at which the image of a star is cut off.
CUT_OFF = 1e-3
#: Distance in pixels beyond a corner of a tile, up to which stars are rendered.
STAR_MARGIN = 40
#: Nodes of the nebulosity beyond each side of a tile; a spline forgets its ends over a few nodes.
NODE_MARGIN = 8
#: Pixels between nodes, for every 960 pixels of a side; clouds are no smaller than a tenth of it.
NODE_STEP = 4


def render_nebula(shape: tuple[int, int], wcs: WCS, clouds: Clouds) -> np.ndarray:
    """Return the nebulosity ``(C, H, W)`` in ADU of a tile.

    It is smooth, and therefore computed at nodes and interpolated with a cubic spline.
    """
    height, width = shape
    step = NODE_STEP * max(1, max(height, width) // 960)
    y, x = (np.arange(-NODE_MARGIN, n / step + NODE_MARGIN) * step for n in (height, width))
    nodes = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    units = unit_vectors(np.deg2rad(wcs.all_pix2world(nodes, 0)))
    images = []
    for coarse in clouds.brightness(units).reshape(-1, len(y), len(x)):
        columns = _evaluate_spline(spline_filter(coarse, order=3), height, step)
        images.append(_evaluate_spline(columns.T, width, step).T)
    return np.stack(images)


def _evaluate_spline(coefficients: np.ndarray, pixels: int, step: int) -> np.ndarray:
    """Evaluate cubic splines along the first axis at each pixel, `step` pixels between nodes."""
    t = np.arange(step)[:, np.newaxis] / step
    weights = (
        (1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6,
    )  # fmt: skip
    count = -(-pixels // step)
    values = np.zeros((count, step, coefficients.shape[1]))
    for first, weight in enumerate(weights, NODE_MARGIN - 1):
        values += coefficients[first : first + count, np.newaxis] * weight
    return values.reshape(count * step, -1)[:pixels]


def add_stars(image: np.ndarray, wcs: WCS, stars: Stars, fwhm: float) -> None:
    """Add the stars in and near a tile to its image ``(C, H, W)``, with a FWHM in pixels."""
    height, width = image.shape[1:]
    visible = _stars_near(stars, wcs, (height, width))
    visible = visible[stars.flux[visible] > 0]
    if not len(visible):
        return
    sigma = fwhm * SIGMA_PER_FWHM
    positions = _sky_to_pixel(wcs, stars.units[visible])
    flux = stars.flux[visible]
    peak = flux / (2 * np.pi * sigma**2)
    radius = np.ceil(sigma * np.sqrt(2 * np.log(np.maximum(peak / CUT_OFF, 2)))).astype(int)
    columns = _PixelIntegrals.of(positions[:, 0], radius, width, sigma)
    rows = _PixelIntegrals.of(positions[:, 1], radius, height, sigma)
    fluxes = (flux * stars.colour[:, visible]).T[:, :, None, None]
    for star in np.flatnonzero((columns.count > 0) & (rows.count > 0)).tolist():
        (x, across), (y, along) = columns.of_star(star), rows.of_star(star)
        image[:, y, x] += fluxes[star] * np.outer(along, across)


def _stars_near(stars: Stars, wcs: WCS, shape: tuple[int, int]) -> np.ndarray:
    """Return the indices of the stars that may be visible in a tile."""
    height, width = shape
    centre = wcs.all_pix2world([[(width - 1) / 2, (height - 1) / 2]], 0)
    radius = np.hypot(height, width) / 2 + STAR_MARGIN
    return stars.within(
        unit_vectors(np.deg2rad(centre))[0], radius * np.deg2rad(pixel_scale(wcs, shape))
    )


def _sky_to_pixel(wcs: WCS, units: np.ndarray) -> np.ndarray:
    """Return pixel x, y ``(N, 2)`` of unit vectors ``(N, 3)``."""
    ra, dec = np.arctan2(units[:, 1], units[:, 0]), np.arcsin(units[:, 2])
    radec = np.rad2deg(np.stack([ra, dec], axis=1))
    return wcs.all_world2pix(radec, 0, tolerance=1e-6, maxiter=60)


@dataclass(frozen=True, eq=False)
class _PixelIntegrals:
    """Integrals of Gaussian stars over the pixels of one axis, of all stars in one array."""

    first: np.ndarray
    count: np.ndarray
    start: np.ndarray
    values: np.ndarray

    @classmethod
    def of(
        cls, position: np.ndarray, radius: np.ndarray, size: int, sigma: float
    ) -> _PixelIntegrals:
        """Integrate stars at positions ``(N,)`` over pixels up to a radius ``(N,)`` away."""
        pixel = position.astype(int)
        first = np.maximum(pixel - radius, 0)
        count = np.maximum(np.minimum(pixel + radius + 1, size) - first, 0)
        start = np.cumsum(count + 1) - (count + 1)  # one edge more than pixels
        of_edge = np.repeat(np.arange(len(count)), count + 1)
        edges = (np.arange(len(of_edge)) + (first - start)[of_edge]) - 0.5 - position[of_edge]
        return cls(first, count, start, np.diff(erf(edges / (np.sqrt(2) * sigma))) / 2)

    def of_star(self, star: int) -> tuple[slice, np.ndarray]:
        """Return the pixels of a star and its integrals over them."""
        first, count, start = self.first[star], self.count[star], self.start[star]
        return slice(first, first + count), self.values[start : start + count]
