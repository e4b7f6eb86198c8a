"""A tile: one image with its position on the sky, from a FITS file or from arrays."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.wcs import WCS

from .axes import channels_first_shape
from .encodings import bayer_pattern
from .file_options import FileOptions
from .fits_files import (
    PixelReader,
    TileError,
    asinh_scale,
    find_image_hdu,
    find_mask_hdu,
    image_unit,
    open_fits,
    pixel_reader,
    require_complete,
)
from .sky import edge_points, pixel_scale, pixel_to_sky
from .strips import bad_pixels, read_strips
from .wcs import read_wcs, require_celestial, wcs_from_parameters, wcs_parameters

#: Points along each side of a tile at which a WCS rebuilt from its parameters is compared.
POINTS_PER_SIDE = 8
#: Degrees along a side of a tile; its corners do not describe a larger one.
LARGEST_EXTENT = 180.0


@dataclass(frozen=True, eq=False)
class Tile:
    """One image of the mosaic, whose pixels are read on demand.

    Construct it with `open_tile` or `tile_from_array`.

    Parameters
    ----------
    name : str
        Base name of the file, or a name given to an array.
    shape : tuple of int
        Height and width in pixels.
    channels : int
        Number of colour channels, 1 for a monochrome tile.
    corners : ndarray
        ``(4, 2)`` float64: right ascension and declination in degrees of the outer corners, in
        order around the tile.
    scale : float
        Side of a pixel at the tile's centre in degrees.
    path : pathlib.Path or None
        The FITS file, or None for a tile held in `data`.
    data : ndarray or None
        ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)`` in ADU; NaN marks missing values.
    mask : ndarray or None
        ``(H, W)`` or the shape of `data`; true where a pixel is bad.
    weight : ndarray or None
        ``(H, W)`` relative weights, 0 where a pixel is bad.
    options : FileOptions
        How the file is read.
    unit : str
        Unit of the pixels (BUNIT), empty if the file does not give it.
    bayer : str
        Colour filter pattern of an undebayered image, else empty.
    asinh : bool
        Whether the file holds asinh-compressed pixels, which are linearized on reading.
    wcs_parameters : dict or None
        The WCS as returned by `wcs_parameters`; None if its parameters do not suffice.
    array_wcs : astropy.wcs.WCS or None
        The WCS of an array whose parameters do not suffice.
    """

    name: str
    shape: tuple[int, int]
    channels: int
    corners: np.ndarray
    scale: float
    path: Path | None = None
    data: np.ndarray | None = None
    mask: np.ndarray | None = None
    weight: np.ndarray | None = None
    options: FileOptions = field(default_factory=FileOptions)
    unit: str = ""
    bayer: str = ""
    asinh: bool = False
    wcs_parameters: dict[str, Any] | None = None
    array_wcs: WCS | None = None

    @cached_property
    def wcs(self) -> WCS:
        """Celestial WCS with two axes; pixel (0, 0) is the centre of the first pixel.

        It is rebuilt from its parameters, or read from the file again if these do not suffice,
        so that every process gets the same bits.
        """
        if self.wcs_parameters is not None:
            return wcs_from_parameters(self.wcs_parameters)
        if self.path is None:
            return self.array_wcs
        with open_fits(self.path) as hdus:
            return read_wcs(self.path, find_image_hdu(hdus, self.path, self.options.hdu), hdus)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("wcs", None)
        return state

    def pixels(self) -> np.ndarray:
        """Read the whole tile.

        Returns
        -------
        ndarray
            ``(C, H, W)`` float32 in ADU, owned by the caller; NaN where a pixel is not finite
            or bad.

        Raises
        ------
        TileError
            The file cannot be read to its end.
        """
        (image,) = self.strips(self.shape[0])
        image[~np.isfinite(image)] = np.nan
        return image

    def strips(self, rows: int) -> Iterator[np.ndarray]:
        """Read the tile from top to bottom; an uncompressed file is never in memory as a whole.

        Parameters
        ----------
        rows : int
            Height of a strip; the last may be lower.

        Yields
        ------
        ndarray
            ``(C, rows, W)`` float32 in ADU, owned by the caller; not finite where a value is
            missing or bad.

        Raises
        ------
        TileError
            The file cannot be read to its end, or the mask has another shape.
        """
        if self.path is None:
            data = np.asarray(self.data)
            yield from self._read_strips(data.__getitem__, data.shape, self.mask, rows)
            return
        with open_fits(self.path) as hdus:
            image, mask = find_image_hdu(hdus, self.path, self.options.hdu), None
            if self.options.mask_hdu is not None:
                mask = find_mask_hdu(hdus, self.path, self.options.mask_hdu).data
            yield from self._read_strips(pixel_reader(image, self.path), image.shape, mask, rows)

    def _read_strips(
        self, read_pixels: PixelReader, shape: tuple[int, ...], mask: np.ndarray | None, rows: int
    ) -> Iterator[np.ndarray]:
        bad = None if mask is None else bad_pixels(self.name, np.asarray(mask), shape)
        return read_strips(read_pixels, shape, rows, bad, self.weight)


def tile_from_array(
    data: Any,
    wcs: WCS,
    mask: Any = None,
    weight: Any = None,
    name: str = "array",
    options: FileOptions | None = None,
) -> Tile:
    """Make a tile from an array and its WCS; the parameters are described in `Tile`.

    Raises
    ------
    TileError
        The array is not an image, the WCS is not celestial, or the weights have another shape.
    """
    array = np.asarray(data)
    try:
        channels_first = channels_first_shape(array.shape)
    except ValueError as error:
        raise TileError(f"{name}: {error}") from None
    channels, shape = _require_pixels(name, channels_first)
    wcs = require_celestial(name, wcs)
    parameters = wcs_parameters(wcs, edge_points(shape, POINTS_PER_SIDE))
    if parameters is None:
        # Pickling rounds it; do so now, so that this process has the same bits as its workers.
        wcs = pickle.loads(pickle.dumps(wcs))
    weight = None if weight is None else np.asarray(weight)
    if weight is not None and weight.shape != shape:
        raise TileError(f"{name}: its weights have the shape {weight.shape}, the image {shape}")
    corners, scale = _footprint(name, wcs, shape)
    return Tile(
        name=name,
        shape=shape,
        channels=channels,
        corners=corners,
        scale=scale,
        data=array,
        mask=None if mask is None else np.asarray(mask),
        weight=weight,
        options=options or FileOptions(),
        wcs_parameters=parameters,
        array_wcs=wcs if parameters is None else None,
    )


def open_tile(path: str | os.PathLike[str], **options: Any) -> Tile:
    """Make a tile from a FITS file like `tile_from_file`, with the fields of `FileOptions`."""
    return tile_from_file(path, FileOptions(**options))


def tile_from_file(path: str | os.PathLike[str], options: FileOptions) -> Tile:
    """Make a tile from a FITS file, of which only the headers are read.

    Parameters
    ----------
    path : path-like
        The file, which may hold compressed images or be compressed itself (``.fits.gz``).
    options : FileOptions
        How the file is read.

    Raises
    ------
    TileError
        There is no such file, no image in it, or no celestial WCS.
    """
    path = Path(path)
    if path.is_dir():
        raise TileError(f"{path}: is a folder; name the FITS files in it")
    if not path.exists():
        raise TileError(f"{path}: no such file; check the name")
    with open_fits(path) as hdus:
        image = find_image_hdu(hdus, path, options.hdu)
        try:
            channels_first = channels_first_shape(tuple(int(length) for length in image.shape))
        except ValueError as error:
            raise TileError(f"{path}: {error}; choose another HDU with --hdu") from None
        channels, shape = _require_pixels(str(path), channels_first)
        require_complete(image, path)
        if options.mask_hdu is not None:
            find_mask_hdu(hdus, path, options.mask_hdu)
        wcs = read_wcs(path, image, hdus)
        unit = image_unit(image.header)
        bayer = bayer_pattern(image.header, channels)
        asinh = asinh_scale(image, path) is not None
    corners, scale = _footprint(str(path), wcs, shape)
    return Tile(
        name=path.name,
        shape=shape,
        channels=channels,
        corners=corners,
        scale=scale,
        path=path,
        options=options,
        unit=unit,
        bayer=bayer,
        asinh=asinh,
        wcs_parameters=wcs_parameters(wcs, edge_points(shape, POINTS_PER_SIDE)),
    )


def _require_pixels(name: str, shape: tuple[int, int, int]) -> tuple[int, tuple[int, int]]:
    """Split ``(C, H, W)`` into channels and shape; raise `TileError` if one of them is 0."""
    channels, height, width = shape
    if min(shape) < 1:
        raise TileError(f"{name}: has no pixels (shape {shape}); leave it out")
    return channels, (height, width)


def _footprint(name: str, wcs: WCS, shape: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Return the corners of a tile and its pixel scale, both in degrees."""
    corners, scale = pixel_to_sky(wcs, edge_points(shape, 1)), pixel_scale(wcs, shape)
    if scale == 0:
        raise TileError(f"{name}: its pixels have no area on the sky; solve the plate again")
    extent = scale * max(shape)
    if extent > LARGEST_EXTENT:
        raise TileError(
            f"{name}: spans {extent:.0f} degrees of the sky; give regions cut out of an all-sky "
            "map, or solve the plate again if its scale is wrong"
        )
    if not (np.isfinite(corners).all() and scale > 0):
        raise TileError(f"{name}: part of it lies off the sky; crop it, or solve the plate again")
    return corners, scale
