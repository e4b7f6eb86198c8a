"""Footprints on the sky of tiles with a tangent projection."""

from __future__ import annotations

import numpy as np
from astropy.wcs import WCS

from zemosaic.photometry.tiles.sky import edge_points, pixel_to_sky


def tangent(ra: float, dec: float, crpix: tuple[float, float] = (1.0, 1.0)) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = (ra, dec), crpix, (-0.001, 0.001)
    return wcs


def rectangle(wcs: WCS, x: float, y: float, w: float, h: float) -> np.ndarray:
    """Return the corners on the sky of a rectangle in the pixels of a WCS."""
    return pixel_to_sky(wcs, edge_points((int(h), int(w)), 1) + np.array([x, y]))


def scattered(seed: int) -> np.ndarray:
    """Rectangles of very different sizes, one that covers most others, and two with NaN corners."""
    rng = np.random.default_rng(seed)
    wcs = tangent(0.0, 89.0)
    size = np.r_[np.exp(rng.uniform(1, 5, 60)), 900.0].round()
    corners = [rectangle(wcs, *rng.uniform(0, 600, 2), s, s // 2 + 1) for s in size]
    corners[7] = corners[20] = np.full((4, 2), np.nan)
    return np.stack(corners)
