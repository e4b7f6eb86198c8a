"""A tile: one image with its place on the sky, from a FITS file or from arrays."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from .axes import _squeezed, channel_axis, to_planes
from .fits_files import (
    HduKey,
    Source,
    TileError,
    header_wcs,
    image_hdu,
    mask_image,
    open_fits,
    pixel_source,
    wcs_numbers,
    wcs_of,
)
from .sky import edge_points, pixel_scale, pixel_to_sky


@dataclass(frozen=True, eq=False)
class Tile:
    """One image of the mosaic; its pixels are read when they are asked for.

    Made by `open_tile` or `tile_from_array`.

    Parameters
    ----------
    name : str
        Base name of the file, or a name made up for an array.
    shape : tuple of int
        Height and width in pixels.
    channels : int
        Number of colour planes, 1 for a monochrome tile.
    corners : ndarray
        ``(4, 2)`` float64: right ascension and declination in degrees of the outer corners of
        the tile, in order around it.
    scale : float
        Side of a pixel at its centre in degrees.
    path : pathlib.Path or None
        The FITS file, or None for a tile that is held in `data`.
    data : ndarray or None
        ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)`` in ADU; NaN is "no datum".
    mask : ndarray or None
        ``(H, W)`` or the shape of `data`; true where a pixel is bad.
    weight : ndarray or None
        ``(H, W)`` relative weights, 0 where a pixel is bad.
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
    hdu: HduKey = None
    mask_hdu: HduKey = None
    wcs_numbers: dict[str, Any] | None = None
    array_wcs: WCS | None = None

    @cached_property
    def wcs(self) -> WCS:
        """Celestial, two axes, pixel (0, 0) at the centre of the first pixel.

        On its way through a pickle a WCS loses digits, and time: so it is made anew from its
        numbers, or read again from the file where it holds more than these.
        """
        if self.wcs_numbers is not None:
            return wcs_of(self.wcs_numbers)
        if self.path is None:
            return self.array_wcs
        with open_fits(self.path) as hdus:
            return _file_wcs(self.path, image_hdu(hdus, self.path, self.hdu), hdus)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("wcs", None)
        return state

    def pixels(self) -> np.ndarray:
        """Read the tile.

        Returns
        -------
        ndarray
            ``(C, H, W)`` float32 in ADU, owned by the caller; NaN where the pixel is not finite
            or masked.

        Raises
        ------
        TileError
            The file cannot be read to its end.
        """
        (planes,) = self.strips(self.shape[0])
        planes[~np.isfinite(planes)] = np.nan
        return planes

    def strips(self, rows: int) -> Iterator[np.ndarray]:
        """Read the tile from top to bottom; a file is never in memory as a whole, if it can be.

        Parameters
        ----------
        rows : int
            Height of a strip; the last may be lower.

        Yields
        ------
        ndarray
            ``(C, rows, W)`` float32 in ADU, owned by the caller; not finite where there is no
            datum.

        Raises
        ------
        TileError
            The file cannot be read to its end.
        """
        if self.path is None:
            data = np.asarray(self.data)
            yield from self._strips(data.__getitem__, data.shape, self.mask, rows)
            return
        with open_fits(self.path) as hdus:
            image = image_hdu(hdus, self.path, self.hdu)
            mask = None
            if self.mask_hdu is not None:
                mask = mask_image(hdus, self.path, self.mask_hdu).data
            yield from self._strips(pixel_source(image, self.path), image.shape, mask, rows)

    def _strips(
        self, source: Source, shape: tuple[int, ...], mask: np.ndarray | None, rows: int
    ) -> Iterator[np.ndarray]:
        bad = None if mask is None else self._bad(np.asarray(mask), shape)
        last = channel_axis(_squeezed(shape)) == 2
        long = [axis for axis, n in enumerate(shape[:-2]) if n != 1]
        axis = long[-1] if last else len(shape) - 2
        for top in range(0, self.shape[0], rows):
            some = slice(top, min(top + rows, self.shape[0]))
            raw = source((slice(None),) * axis + (some,))
            if last:
                raw = np.moveaxis(raw.reshape(-1, self.shape[1], self.channels), 2, 0)
            else:
                raw = raw.reshape(self.channels, -1, self.shape[1])
            with np.errstate(over="ignore"):  # what float32 cannot hold is no datum
                planes = raw.astype(np.float32, order="C")
            if bad is not None:
                planes[bad[:, some]] = np.nan
            if self.weight is not None:
                planes[:, ~(self.weight[some] > 0)] = np.nan
            yield planes

    def _bad(self, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Where pixels are bad, ``(C, H, W)``, of a mask for an image of some shape."""
        bad = mask != 0
        bad = to_planes(bad) if bad.shape == shape else np.squeeze(bad)
        if bad.shape not in ((self.channels, *self.shape), self.shape):
            raise TileError(
                f"{self.name}: its mask has the shape {mask.shape}, the image "
                f"{self.shape}; give a mask of the image's shape"
            )
        return np.broadcast_to(bad, (self.channels, *self.shape))


def tile_from_array(
    data: Any,
    wcs: WCS,
    mask: Any = None,
    weight: Any = None,
    name: str = "array",
) -> Tile:
    """Make a tile of an array and its WCS.

    Raises
    ------
    TileError
        The array is not an image or the WCS is not celestial.
    """
    array = np.asarray(data)
    try:
        planes = to_planes(array)
    except ValueError as error:
        raise TileError(f"{name}: {error}") from None
    shape = _checked_shape(name, planes.shape)
    wcs = _celestial(name, wcs)
    if (numbers := wcs_numbers(wcs, edge_points(shape, 8))) is None:
        # Once through a pickle, which rounds: the same bits then in this process and in workers.
        wcs = pickle.loads(pickle.dumps(wcs))
    weight = None if weight is None else np.asarray(weight)
    if weight is not None and weight.shape != shape:
        raise TileError(f"{name}: its weights have the shape {weight.shape}, the image {shape}")
    mask = None if mask is None else np.asarray(mask)
    return Tile(
        name, shape, planes.shape[0], *_on_sky(name, wcs, shape),
        data=array, mask=mask, weight=weight,
        wcs_numbers=numbers, array_wcs=wcs if numbers is None else None,
    )  # fmt: skip


def open_tile(path: str | os.PathLike[str], hdu: HduKey = None, mask_hdu: HduKey = None) -> Tile:
    """Read the header of a FITS file; its pixels stay on disk.

    Parameters
    ----------
    path : path-like
        The file; compressed images and ``.fits.gz`` are fine.
    hdu : int, str or None
        The HDU of the image; None takes the first that holds one.
    mask_hdu : int, str or None
        An HDU whose nonzero pixels are bad.

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
        image = image_hdu(hdus, path, hdu)
        raw_shape = tuple(int(n) for n in image.shape)
        try:
            axis = channel_axis(_squeezed(raw_shape))
        except ValueError as error:
            raise TileError(f"{path}: {error}; choose another HDU with --hdu") from None
        planes = list(_squeezed(raw_shape))
        channels = 1 if axis is None else planes.pop(axis)
        shape = _checked_shape(str(path), (channels, *planes))
        if mask_hdu is not None:
            mask_image(hdus, path, mask_hdu)
        wcs = _file_wcs(path, image, hdus)
    return Tile(
        path.name, shape, channels, *_on_sky(str(path), wcs, shape),
        path=path, hdu=hdu, mask_hdu=mask_hdu, wcs_numbers=wcs_numbers(wcs, edge_points(shape, 8)),
    )  # fmt: skip


def _file_wcs(path: Path, image: Any, hdus: fits.HDUList) -> WCS:
    return _celestial(str(path), header_wcs(path, image.header, hdus))


def _celestial(name: str, wcs: WCS) -> WCS:
    if not isinstance(wcs, WCS):
        raise TileError(f"{name}: {type(wcs).__name__} is no astropy.wcs.WCS; give one")
    if not wcs.has_celestial:
        raise TileError(f"{name}: has no celestial WCS; solve the plate first")
    wcs = wcs if wcs.naxis == 2 else wcs.celestial
    if wcs.wcs.lng != 0:
        raise TileError(f"{name}: its WCS has the declination first; swap the axes of the image")
    return wcs


def _on_sky(name: str, wcs: WCS, shape: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Corners and pixel scale of a tile; both in degrees."""
    corners, scale = pixel_to_sky(wcs, edge_points(shape, 1)), pixel_scale(wcs, shape)
    if not (np.isfinite(corners).all() and scale > 0):
        raise TileError(f"{name}: part of it lies off the sky; crop it, or solve the plate again")
    return corners, scale


def _checked_shape(name: str, planes_shape: tuple[int, ...]) -> tuple[int, int]:
    h, w = planes_shape[1:]
    if min(planes_shape) < 1:
        raise TileError(f"{name}: has no pixels (shape {planes_shape}); leave it out")
    return int(h), int(w)
