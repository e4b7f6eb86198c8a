"""A tile: one image with its position on the sky, from a FITS file or from arrays."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from .axes import channels_first_shape
from .file_options import FileOptions, split_input
from .fits_files import (
    PixelReader,
    TileError,
    find_image_hdu,
    find_mask_hdu,
    image_unit,
    is_image,
    open_fits,
    pixel_reader,
)
from .frames import ICRS, frame_name
from .images import groups_of_image, has_celestial, hdu_of_image, image_label, select_images
from .sidecars import companion, read_sidecar, require_same_size
from .sky import edge_points, pixel_scale, pixel_to_sky
from .strips import bad_pixels, read_strips
from .wcs import read_wcs, require_celestial, wcs_from_parameters, wcs_parameters

#: Points along each side of a tile at which a WCS rebuilt from its parameters is compared.
POINTS_PER_SIDE = 8


@dataclass(frozen=True, eq=False)
class Tile:
    """One image of the mosaic, whose pixels are read on demand.

    Construct it with `open_tile` or `tile_from_array`.

    Parameters
    ----------
    name : str
        Base name of the file, with the HDU if it holds several tiles (``a.fits[SCI,2]``), or a
        name given to an array.
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
        How the file is read; its HDUs are numbers.
    unit : str
        Unit of the pixels (BUNIT), empty if the file does not give it.
    wcs_parameters : dict or None
        The WCS as returned by `wcs_parameters`; None if its parameters do not suffice.
    array_wcs : astropy.wcs.WCS or None
        The WCS of an array whose parameters do not suffice.
    wcs_path : pathlib.Path or None
        The file of the WCS, if it is not that of the image.
    groups : tuple of str
        Groups of the tile by each rule of `FileOptions.group`.
    frame : str
        Frame of `corners`: ICRS, to which the WCS is converted, or the name of an unknown one.
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
    wcs_parameters: dict[str, Any] | None = None
    array_wcs: WCS | None = None
    wcs_path: Path | None = None
    groups: tuple[str, ...] = ()
    frame: str = ICRS

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
        if self.wcs_path is not None:
            return read_wcs(self.wcs_path, read_sidecar(self.wcs_path), None)
        with open_fits(self.path) as hdus:
            image = find_image_hdu(hdus, self.path, self.options.hdu)
            return read_wcs(self.path, image.header, hdus)

    @property
    def place(self) -> str:
        """Path of the file and name of the image in it, or the name of an array."""
        return self.name if self.path is None else str(self.path.with_name(self.name))

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
        frame=frame_name(wcs),
    )


def open_tile(path: str | os.PathLike[str], **options: Any) -> Tile:
    """Make a tile from a FITS file like `tile_from_file`, with the fields of `FileOptions`."""
    return tile_from_file(path, FileOptions(**options))


def open_tiles(path: str | os.PathLike[str], **options: Any) -> list[Tile]:
    """Make tiles from all images of a FITS file, with the fields of `FileOptions`.

    Raises
    ------
    TileError
        As `tile_from_file`, for any of the images.
    """
    tiles = []
    for _, tile in read_tiles(path, FileOptions(**options)):
        if isinstance(tile, TileError):
            raise tile
        tiles.append(tile)
    return tiles


def tile_from_file(path: str | os.PathLike[str], options: FileOptions) -> Tile:
    """Make a tile from a FITS file, of which only the headers are read.

    Parameters
    ----------
    path : path-like
        The file, which may hold compressed images or be compressed itself (``.fits.gz``). The
        image may be given with it, as in ``file.fits[SCI,2]``.
    options : FileOptions
        How the file is read.

    Raises
    ------
    TileError
        There is no such file, no image in it or more than one, or no celestial WCS.
    """
    (name, tile), *others = read_tiles(path, options)
    if others:
        raise TileError(
            f"{path}: holds {1 + len(others)} images; choose one, as in {name}, or use open_tiles"
        )
    if isinstance(tile, TileError):
        raise tile
    return tile


def read_tiles(
    path: str | os.PathLike[str], options: FileOptions
) -> list[tuple[str, Tile | TileError]]:
    """Make tiles from all images of a FITS file.

    Returns
    -------
    list of tuple
        Name of each tile, and the tile or the reason why it cannot be used.

    Raises
    ------
    TileError
        The file cannot be used at all.
    """
    file, key = split_input(os.fspath(path))
    path = Path(file)
    if key is not None:
        options = replace(options, hdu=key)
    if path.is_dir():
        raise TileError(f"{path}: is a folder; name the FITS files in it")
    if not path.exists():
        raise TileError(f"{path}: no such file; check the name")
    tiles: list[tuple[str, Tile | TileError]] = []
    with open_fits(path) as hdus:
        numbers = select_images(hdus, path, options.hdu)
        if len(numbers) > 1 and isinstance(options.mask_hdu, int):
            raise TileError(
                f"{path}: HDU {options.mask_hdu} cannot be the mask of {len(numbers)} images; "
                "give the name of the masks with --mask-hdu"
            )
        for number in numbers:
            label = f"[{image_label(hdus, number)}]" if key or len(numbers) > 1 else ""
            name = f"{path.name}{label}"
            try:
                tiles.append((name, _tile_of_image(hdus, path, name, number, options)))
            except TileError as error:
                tiles.append((name, error))
    return tiles


def _tile_of_image(
    hdus: fits.HDUList, path: Path, name: str, number: int, options: FileOptions
) -> Tile:
    """Make a tile from one image of an open file."""
    image, place = hdus[number], path.with_name(name)
    try:
        channels_first = channels_first_shape(tuple(int(length) for length in image.shape))
    except ValueError as error:
        raise TileError(f"{place}: {error}; choose another HDU with --hdu") from None
    channels, shape = _require_pixels(str(place), channels_first)
    mask_hdu = options.mask_hdu
    if mask_hdu is not None:
        mask_hdu = hdu_of_image(hdus, path, mask_hdu, number)
        if not is_image(hdus[mask_hdu]):
            raise TileError(
                f"{path}: HDU {options.mask_hdu} holds no mask; choose another with --mask-hdu"
            )
    wcs_path = None if has_celestial(image.header) else companion(path, options.wcs)
    if wcs_path is not None and wcs_path.is_file():
        header = read_sidecar(wcs_path)
        require_same_size(wcs_path, header, shape)
        wcs = read_wcs(wcs_path, header, None)
    else:
        wcs_path, wcs = None, read_wcs(place, image.header, hdus)
    corners, scale = _footprint(str(place), wcs, shape)
    return Tile(
        name=name,
        shape=shape,
        channels=channels,
        corners=corners,
        scale=scale,
        path=path,
        options=replace(options, hdu=number, mask_hdu=mask_hdu),
        unit=image_unit(image.header),
        wcs_parameters=wcs_parameters(wcs, edge_points(shape, POINTS_PER_SIDE)),
        wcs_path=wcs_path,
        groups=groups_of_image(hdus, path, number, options.group),
        frame=frame_name(wcs),
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
    if not (np.isfinite(corners).all() and scale > 0):
        raise TileError(f"{name}: part of it lies off the sky; crop it, or solve the plate again")
    return corners, scale
