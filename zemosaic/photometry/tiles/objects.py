"""Tiles from objects of astropy in memory: HDUs, `NDData` and `CCDData`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ...errors import TileError
from .axes import channels_first_shape
from .encodings import bayer_pattern, saturation_level
from .file_options import FileOptions
from .fits_files import asinh_scale, image_unit, name_read_errors
from .images import groups_of_image, image_label, instrument_of_image, select_images
from .quality_planes import PlacedPlane, find_quality
from .tile import Tile, tile_from_array, unit_text
from .wcs import read_wcs

IMAGE_HDUS = fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU


def is_object(item: Any) -> bool:
    """Return whether an item is an HDU, a list of HDUs, or an `NDData`."""
    return isinstance(item, (*IMAGE_HDUS, fits.HDUList)) or is_nddata(item)


def is_nddata(item: Any) -> bool:
    """Return whether an item is an `astropy.nddata.NDData`, which need not be imported for it."""
    nddata = sys.modules.get("astropy.nddata")
    return nddata is not None and isinstance(item, nddata.NDData)


def object_name(item: Any) -> str:
    """Return the base name of the file of an HDU or a list of HDUs; empty for one in memory."""
    hdu = next(iter(item), None) if isinstance(item, fits.HDUList) else item
    info = hdu.fileinfo() if isinstance(hdu, IMAGE_HDUS) else None
    file = info["file"] if info else None
    return Path(file.name).name if file is not None and file.name else ""


def tiles_from_object(
    item: Any, name: str, options: FileOptions
) -> list[tuple[str, Tile | TileError]]:
    """Make tiles from an object, with names as `read_tiles` makes them of a file.

    Parameters
    ----------
    item : HDU, HDUList or NDData
        All images of a list of HDUs are tiles, like the images of a file, with their data quality.
        An NDData gives its mask, its unit and, as weights, the inverse variance of its
        uncertainty.
    name : str
        Name of the item.
    options : FileOptions
        How it is read; nothing is looked for beside it.

    Raises
    ------
    TileError
        It holds no usable image.
    """
    if is_nddata(item):
        return [(name, _tile_from_nddata(item, name, options))]
    hdus = item if isinstance(item, fits.HDUList) else fits.HDUList([item])
    options = replace(options, mask=None, weight=None)
    with name_read_errors(Path(name)):
        numbers = select_images(hdus, Path(name), options.hdu)
        tiles: list[tuple[str, Tile | TileError]] = []
        for number in numbers:
            label = f"[{image_label(hdus, number)}]" if len(numbers) > 1 else ""
            own_name = f"{name}{label}"
            try:
                tiles.append((own_name, _tile_from_hdu(hdus, number, own_name, options)))
            except TileError as error:
                tiles.append((own_name, error))
    return tiles


def _tile_from_hdu(hdus: fits.HDUList, number: int, name: str, options: FileOptions) -> Tile:
    image, path = hdus[number], Path(name)
    data, scale = image.data, asinh_scale(image, path)
    mask, weight, flags = find_quality(hdus, path, number, options)
    wcs = read_wcs(path, image.header, hdus)
    tile = tile_from_array(
        data if scale is None else scale.linearize(data),
        wcs,
        _plane(hdus, mask),
        _single(_plane(hdus, weight)),
        name,
        options,
    )
    headers = (image.header, hdus[0].header)
    return replace(
        _described(tile, hdus, number, options),
        unit=image_unit(image.header),
        ignored_flags=flags,
        saturation=min(map(saturation_level, headers)),
    )


def _plane(hdus: fits.HDUList, place: PlacedPlane) -> np.ndarray | None:
    return None if place.hdu is None else hdus[place.hdu].data


def _tile_from_nddata(item: Any, name: str, options: FileOptions) -> Tile:
    if item.wcs is None:
        raise TileError(f"{name}: has no WCS; give one to the {type(item).__name__}")
    wcs = getattr(item.wcs, "low_level_wcs", item.wcs)
    weight = None if item.uncertainty is None else _inverse_variance(item.uncertainty, name)
    tile = tile_from_array(item.data, wcs, item.mask, weight, name, options)
    if isinstance(item.meta, fits.Header):
        hdus = fits.HDUList([fits.ImageHDU(header=item.meta)])
        saturation = saturation_level(item.meta)
        tile = replace(_described(tile, hdus, 0, options), saturation=saturation)
    return replace(tile, unit=unit_text(item.unit))


def _described(tile: Tile, hdus: fits.HDUList, number: int, options: FileOptions) -> Tile:
    """Return a tile with the groups, the instrument and the colour filters of its header."""
    several = len(hdus) > 1
    return replace(
        tile,
        bayer=bayer_pattern(hdus[number].header, tile.channels),
        groups=groups_of_image(hdus, Path(tile.name), number, options.group),
        instrument=instrument_of_image(hdus, number, several, options.instrument),
    )


def _inverse_variance(uncertainty: Any, name: str) -> np.ndarray:
    """Return the inverse variance, 0 if it is not finite, as weights ``(H, W)``.

    Raises
    ------
    TileError
        The kind of the uncertainty is unknown.
    """
    from astropy.nddata import InverseVariance

    try:
        with np.errstate(divide="ignore"):
            weight = np.asarray(uncertainty.represent_as(InverseVariance).array, dtype=np.float64)
    except TypeError:
        kind = type(uncertainty).__name__
        raise TileError(
            f"{name}: its uncertainty is a {kind}; give a StdDevUncertainty, a "
            "VarianceUncertainty or an InverseVariance"
        ) from None
    return np.asarray(_single(np.where(np.isfinite(weight), weight, 0.0)))


def _single(plane: np.ndarray | None) -> np.ndarray | None:
    """Return the mean plane of one with channels, which the channels of a tile share."""
    if plane is None:
        return None
    channels, height, width = channels_first_shape(plane.shape)
    if channels == 1:
        return plane.reshape(height, width)
    axis = next(axis for axis, length in enumerate(plane.shape) if length == channels)
    return np.asarray(plane.mean(axis=axis))
