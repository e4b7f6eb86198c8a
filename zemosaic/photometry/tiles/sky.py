"""Positions on the sky of the pixels of an image."""

from __future__ import annotations

import numpy as np
from astropy.wcs import WCS, NoConvergence

from .frames import from_icrs, to_icrs


def edge_points(shape: tuple[int, int], per_side: int) -> np.ndarray:
    """Return points around the outer edge of an image, ``(4 * per_side, 2)`` pixel x, y."""
    height, width = shape
    rising = np.arange(per_side) / per_side
    zeros, ones = np.zeros_like(rising), np.ones_like(rising)
    x = np.concatenate([rising, ones, 1 - rising, zeros]) * width - 0.5
    y = np.concatenate([zeros, rising, ones, 1 - rising]) * height - 0.5
    return np.stack([x, y], axis=1)


def pixel_to_sky(wcs: WCS, xy: np.ndarray) -> np.ndarray:
    """Return the sky coordinates (ICRS) of pixels, both ``(N, 2)``, in degrees.

    They are NaN for pixels off the sky.
    """
    return to_icrs(wcs, np.asarray(wcs.all_pix2world(xy, 0), dtype=np.float64))


def sky_to_pixel(wcs: WCS, radec: np.ndarray) -> np.ndarray:
    """Return the pixels ``(N, 2)`` of sky coordinates (ICRS) ``(N, 2)`` in degrees."""
    try:
        return wcs.all_world2pix(from_icrs(wcs, radec), 0, quiet=True, maxiter=40)
    except NoConvergence as error:  # raised in spite of `quiet` if no position converged
        return error.best_solution


def pixel_scale(wcs: WCS, shape: tuple[int, int]) -> float:
    """Return the square root of the area of the central pixel of an image, in degrees."""
    y, x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    pixels = np.array([[x, y], [x + 1, y], [x, y + 1]])
    centre, right, up = unit_vectors(np.deg2rad(pixel_to_sky(wcs, pixels)))
    area = np.linalg.norm(np.cross(right - centre, up - centre))
    return float(np.rad2deg(np.sqrt(area)))


def unit_vectors(radec: np.ndarray) -> np.ndarray:
    """Return unit vectors ``(..., 3)`` of right ascension, declination ``(..., 2)`` in radians."""
    ra, dec = radec[..., 0], radec[..., 1]
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
