"""Positions on the sky of the pixels of an image."""

from __future__ import annotations

import numpy as np
from astropy.wcs import WCS


def edge_points(shape: tuple[int, int], per_side: int) -> np.ndarray:
    """Return points around the outer edge of an image, ``(4 * per_side, 2)`` pixel x, y."""
    height, width = shape
    rising = np.arange(per_side) / per_side
    zeros, ones = np.zeros_like(rising), np.ones_like(rising)
    x = np.concatenate([rising, ones, 1 - rising, zeros]) * width - 0.5
    y = np.concatenate([zeros, rising, ones, 1 - rising]) * height - 0.5
    return np.stack([x, y], axis=1)


def pixel_to_sky(wcs: WCS, xy: np.ndarray) -> np.ndarray:
    """Return the sky coordinates ``(N, 2)`` in degrees of pixels ``(N, 2)``; NaN off the sky."""
    return np.asarray(wcs.all_pix2world(xy, 0), dtype=np.float64)


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
