"""The layout of a simulated mosaic: the WCS of each tile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from astropy.wcs import WCS, Sip

from .scene import RandomStream, Scene

#: Largest scatter of a tile, as a fraction of the overlap; neighbours overlap if it is below 0.5.
SCATTER = 0.25
#: Distance between the centres of islands, in units of their width plus one tile.
ISLAND_DISTANCE = 1.5


def layout_tiles(scene: Scene) -> Iterator[WCS]:
    """Yield the WCS of each tile, row by row and island by island."""
    rng = scene.random(RandomStream.LAYOUT)
    height, width = scene.shape
    per_island = -(-scene.tiles // scene.islands)
    columns = int(np.ceil(np.sqrt(per_island * height / width)))
    tile_distance = np.array([width, height]) * (1 - scene.overlap)
    island_distance = ISLAND_DISTANCE * (columns + 1) * width
    for index in range(scene.tiles):
        island, place = divmod(index, per_island)
        row, column = divmod(place, columns)
        scatter = rng.uniform(-SCATTER, SCATTER, 2) * scene.overlap * np.array([width, height])
        centre = (np.array([column, row]) - (columns - 1) / 2) * tile_distance + scatter
        centre[0] += (island - (scene.islands - 1) / 2) * island_distance
        yield _tile_wcs(scene, centre, np.deg2rad(rng.uniform(-1, 1) * scene.rotation))


def _tile_wcs(scene: Scene, centre: np.ndarray, angle: float) -> WCS:
    """Return the WCS of a tile.

    Parameters
    ----------
    scene : Scene
        The scene.
    centre : ndarray
        ``(2,)`` centre of the tile in pixels, from the centre of the mosaic.
    angle : float
        Rotation in radians.
    """
    wcs = WCS(naxis=2)
    suffix = "-SIP" if scene.sip else ""
    wcs.wcs.ctype = ["RA---TAN" + suffix, "DEC--TAN" + suffix]
    wcs.wcs.crval = _mosaic_wcs(scene).wcs_pix2world([centre], 0)[0]
    wcs.wcs.crpix = [(scene.shape[1] + 1) / 2, (scene.shape[0] + 1) / 2]
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = np.diag([-scene.scale, scene.scale]) @ rotation
    if scene.sip:
        a, b = np.zeros((3, 3)), np.zeros((3, 3))
        a[2, 0], a[1, 1], b[0, 2], b[1, 1] = 2.6e-6, -1.2e-6, 6.7e-7, 2.1e-6
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def _mosaic_wcs(scene: Scene) -> WCS:
    """Return a tangent plane with pixel (0, 0) at the centre of the mosaic."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = scene.centre, [1.0, 1.0]
    wcs.wcs.cdelt = [-scene.scale, scene.scale]
    return wcs
