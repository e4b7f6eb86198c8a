"""The canvas of a mosaic: its pixels, their place on the sky, and the places of tiles on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, Sip

from ...errors import TileError, UserError
from ..tiles.fits_files import ignore_astropy_warnings, open_fits
from ..tiles.frames import frame_of_longitudes, is_known_frame, needs_conversion
from ..tiles.images import has_celestial
from ..tiles.sky import edge_points, pixel_to_sky, sky_to_pixel, unit_vectors
from ..tiles.tile import Tile
from ..tiles.wcs import read_wcs

#: Points along each side of a tile that determine its place on the canvas.
POINTS_PER_SIDE = 16
#: Distance in pixels from whole ones up to which the grids of two tiles are one.
SAME_GRID = 0.01
#: A canvas of more pixels is refused if most of it is empty.
LARGEST_EMPTY = 300_000_000
#: Pixels of a canvas for each pixel of the tiles, from which on most of it is empty.
MOST_EMPTY = 8
#: Degrees from the centre of the tiles up to which they lie on one tangent plane.
LARGEST_RADIUS = 80.0
#: Pixels of a block, of all channels, and in a stack of all tiles.
BLOCK_VALUES, STACK_VALUES = 1 << 20, 1 << 23
#: Side below which a block is not divided.
SMALLEST_BLOCK = 64


class Box(NamedTuple):
    """A rectangle of pixels of the canvas: its first column and row, and those after its last."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width; not positive if it is empty."""
        return self.y1 - self.y0, self.x1 - self.x0

    def common(self, other: Box) -> Box | None:
        """Return the pixels that both have, None without any."""
        box = Box(
            max(self.x0, other.x0), max(self.y0, other.y0),
            min(self.x1, other.x1), min(self.y1, other.y1),
        )  # fmt: skip
        return box if min(box.shape) > 0 else None

    def slices_in(self, frame: Box) -> tuple[slice, slice]:
        """Return rows and columns of this box in the array of another that contains it."""
        return (
            slice(self.y0 - frame.y0, self.y1 - frame.y0),
            slice(self.x0 - frame.x0, self.x1 - frame.x0),
        )


@dataclass(frozen=True)
class Canvas:
    """The pixels of a mosaic.

    Parameters
    ----------
    header : str
        Cards of its WCS, of which every process makes the same WCS.
    shape : tuple of int
        Height and width.
    """

    header: str
    shape: tuple[int, int]

    @classmethod
    def of(cls, wcs: WCS, shape: tuple[int, int]) -> Canvas:
        """Make a canvas of a celestial WCS."""
        with ignore_astropy_warnings():
            header = wcs.to_header(relax=True)
        return cls(header.tostring(), (int(shape[0]), int(shape[1])))

    @property
    def wcs(self) -> WCS:
        """Celestial WCS, a new one each time because threads must not share it."""
        with ignore_astropy_warnings():
            return WCS(fits.Header.fromstring(self.header))

    @property
    def box(self) -> Box:
        """All of its pixels."""
        return Box(0, 0, self.shape[1], self.shape[0])


@dataclass(frozen=True)
class Placement:
    """The place of a tile on a canvas.

    Parameters
    ----------
    box : Box or None
        Pixels of the canvas that the tile may cover; None if it is not on it.
    shift : tuple of int or None
        Column and row of the tile's first pixel, if both grids are one. Otherwise the tile has to
        be resampled.
    """

    box: Box | None
    shift: tuple[int, int] | None = None


def choose_canvas(tiles: Sequence[Tile]) -> Canvas:
    """Return the canvas that fits the tiles.

    It is the grid of the tiles if they share one, and otherwise a tangent plane with north up and
    the smallest pixels of the tiles, in ICRS if a tile has other coordinates than right ascension
    and declination of ICRS or J2000.

    Raises
    ------
    TileError
        The frame of the coordinates is unknown.
    UserError
        The canvas would be too large and empty, because a tile lies far from the others.
    """
    first = tiles[0]
    if not is_known_frame(first.wcs):
        raise TileError(f"{first.name}: a mosaic cannot have the coordinates {first.frame}")
    canvas = _shared_grid(tiles) or _tangent_plane(tiles)
    pixels = math.prod(canvas.shape)
    if pixels > LARGEST_EMPTY + MOST_EMPTY * sum(math.prod(tile.shape) for tile in tiles):
        raise UserError(_too_large(tiles, canvas.shape))
    return canvas


def canvas_like(path: Path) -> Canvas:
    """Return the canvas of the first image with a celestial WCS in a FITS file.

    Raises
    ------
    TileError
        There is none, or its distortion is given by tables.
    """
    with open_fits(path) as hdus:
        for hdu in hdus:
            if has_celestial(hdu.header) and len(getattr(hdu, "shape", ()) or ()) >= 2:
                wcs, shape = read_wcs(path, hdu.header, hdus), hdu.shape[-2:]
                break
        else:
            raise TileError(f"{path}: no image in it has a celestial WCS; give one that has")
    if wcs.cpdis1 or wcs.cpdis2 or wcs.det2im1 or wcs.det2im2 or not is_known_frame(wcs):
        raise TileError(f"{path}: a mosaic cannot have its WCS; give one without lookup tables")
    return Canvas.of(wcs, shape)


def place_tile(canvas: Canvas, wcs: WCS, tile: Tile) -> Placement:
    """Return the place of a tile on a canvas with the given WCS."""
    edge = edge_points(tile.shape, POINTS_PER_SIDE)
    with np.errstate(invalid="ignore"):
        place = sky_to_pixel(wcs, pixel_to_sky(tile.wcs, edge))
    if not np.isfinite(place).all():  # across the border of a map of the sky
        return Placement(canvas.box)
    shift = np.rint((place - edge).mean(axis=0))
    if np.abs(place - edge - shift).max() < SAME_GRID:
        x, y = (int(value) for value in shift)
        box = Box(x, y, x + tile.shape[1], y + tile.shape[0])
        return Placement(box.common(canvas.box), (x, y))
    low, high = np.floor(place.min(axis=0)) - 1, np.ceil(place.max(axis=0)) + 2
    return Placement(Box(*map(int, (*low, *high))).common(canvas.box))


def divide(
    canvas: Canvas, boxes: Sequence[Box], channels: int, stacked: bool, multiple: int = 1
) -> list[Box]:
    """Divide a canvas into blocks with small arrays, from bottom to top.

    Parameters
    ----------
    canvas : Canvas
        The canvas.
    boxes : sequence of Box
        The boxes of the tiles.
    channels : int
        Number of channels.
    stacked : bool
        Whether all tiles of a block are in memory together.
    multiple : int
        Blocks begin at multiples of this number.
    """
    side = 1 << int(math.log2(max(SMALLEST_BLOCK, math.sqrt(BLOCK_VALUES / channels))))
    side = max(multiple, side // multiple * multiple)
    height, width = canvas.shape
    blocks = []
    waiting = [
        Box(x, y, min(x + side, width), min(y + side, height))
        for y in reversed(range(0, height, side))
        for x in reversed(range(0, width, side))
    ]
    while waiting:
        block = waiting.pop()
        depth = sum(block.common(box) is not None for box in boxes) if stacked else 1
        half = [max(1, length // 2 // multiple) * multiple for length in block.shape]
        axis = int(block.shape[1] > block.shape[0])
        large = depth * channels * math.prod(block.shape) > STACK_VALUES
        if not large or block.shape[axis] < max(SMALLEST_BLOCK, 2 * multiple):
            blocks.append(block)
        elif axis:
            middle = block.x0 + half[1]
            waiting += [block._replace(x0=middle), block._replace(x1=middle)]
        else:
            middle = block.y0 + half[0]
            waiting += [block._replace(y0=middle), block._replace(y1=middle)]
    return blocks


def _shared_grid(tiles: Sequence[Tile]) -> Canvas | None:
    """Return the grid of the first tile, around all tiles; None if not all share it."""
    first = tiles[0].wcs
    if first.cpdis1 or first.cpdis2 or first.det2im1 or first.det2im2:
        return None
    shifts = []
    for tile in tiles:
        edge = edge_points(tile.shape, 2)
        place = sky_to_pixel(first, pixel_to_sky(tile.wcs, edge))
        shift = np.rint((place - edge).mean(axis=0))
        if not np.abs(place - edge - shift).max() < SAME_GRID:
            return None
        shifts.append(shift)
    low = np.min(shifts, axis=0)
    ends = [shift + tile.shape[::-1] for shift, tile in zip(shifts, tiles, strict=True)]
    width, height = np.max(ends, axis=0) - low
    wcs = first.deepcopy()
    wcs.wcs.crpix = wcs.wcs.crpix - low
    if (sip := wcs.sip) is not None:
        wcs.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix - low)
    wcs.wcs.set()
    return Canvas.of(wcs, (height, width))


def _tangent_plane(tiles: Sequence[Tile]) -> Canvas:
    from astropy.coordinates import ICRS
    from astropy.wcs.utils import custom_wcs_to_frame_mappings
    from reproject.mosaicking import find_optimal_celestial_wcs

    corners = unit_vectors(np.deg2rad(np.concatenate([tile.corners for tile in tiles])))
    centre = corners.sum(axis=0)
    centre /= np.linalg.norm(centre)
    if np.rad2deg(np.arccos(np.clip((corners @ centre).min(), -1, 1))) > LARGEST_RADIUS:
        raise UserError(_too_large(tiles, None))
    frame = ICRS() if any(needs_conversion(tile.wcs) for tile in tiles) else None
    with custom_wcs_to_frame_mappings(frame_of_longitudes), ignore_astropy_warnings():
        footprints = [(tile.shape, tile.wcs) for tile in tiles]
        wcs, shape = find_optimal_celestial_wcs(footprints, frame=frame)
    return Canvas.of(wcs, shape)


def _too_large(tiles: Sequence[Tile], shape: tuple[int, int] | None) -> str:
    """Return the reason against a canvas, with the tile that lies farthest from the others."""
    centres = np.array([unit_vectors(np.deg2rad(tile.corners)).sum(axis=0) for tile in tiles])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    middle = np.median(centres, axis=0)
    cosine = centres @ middle / np.linalg.norm(middle)
    farthest = int(cosine.argmin())
    others = np.delete(centres, farthest, axis=0)
    distance = np.rad2deg(np.arccos(np.clip((others @ centres[farthest]).max(), -1, 1)))
    size = f"{shape[1]:,} × {shape[0]:,} pixels" if shape else "larger than half the sky"
    return (
        f"the mosaic would be {size}: tile {tiles[farthest].name} lies {distance:.3g}° from the "
        "others; leave it out, or choose the place of the mosaic with --mosaic-like"
    )
