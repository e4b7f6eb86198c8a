"""Positions on the sky of the pixels of an image."""

from __future__ import annotations

import numpy as np
from astropy.wcs import WCS


def edge_points(shape: tuple[int, int], per_side: int) -> np.ndarray:
    """Points around the outer edge of an image, ``(4 * per_side, 2)`` pixel x, y."""
    h, w = shape
    t = np.arange(per_side) / per_side
    zero, one = np.zeros_like(t), np.ones_like(t)
    x = np.concatenate([t, one, 1 - t, zero]) * w - 0.5
    y = np.concatenate([zero, t, one, 1 - t]) * h - 0.5
    return np.stack([x, y], axis=1)


def pixel_to_sky(wcs: WCS, xy: np.ndarray) -> np.ndarray:
    """Sky coordinates ``(N, 2)`` in degrees of the pixels ``(N, 2)``; NaN off the sky."""
    return np.asarray(wcs.all_pix2world(xy, 0), dtype=np.float64)


def pixel_scale(wcs: WCS, shape: tuple[int, int]) -> float:
    """Side of a pixel at the centre of an image, in degrees (root of its area)."""
    y, x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    here = np.array([[x, y], [x + 1, y], [x, y + 1]])
    sky = np.deg2rad(pixel_to_sky(wcs, here))
    unit = unit_vectors(sky)
    return float(
        np.rad2deg(np.sqrt(np.linalg.norm(np.cross(unit[1] - unit[0], unit[2] - unit[0]))))
    )


def unit_vectors(radec: np.ndarray) -> np.ndarray:
    """Unit vectors ``(..., 3)`` of right ascension and declination ``(..., 2)`` in radians."""
    ra, dec = radec[..., 0], radec[..., 1]
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
