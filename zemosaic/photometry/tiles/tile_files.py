"""Tiles from FITS files, of which only the headers are read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from astropy.io import fits

from ...errors import TileError
from .axes import channels_first_shape
from .encodings import bayer_pattern, saturation_level
from .file_options import FileOptions, split_input
from .fits_files import asinh_scale, image_unit, open_fits, pixel_reader, require_complete
from .frames import frame_name
from .images import (
    groups_of_image,
    has_celestial,
    image_label,
    instrument_of_image,
    select_images,
)
from .quality_planes import find_quality
from .sidecars import companion, read_sidecar, require_same_size
from .sky import edge_points
from .strips import ALPHA_PLANES, PixelPlane, has_alpha
from .tile import POINTS_PER_SIDE, Tile, footprint, require_pixels
from .wcs import read_wcs, wcs_parameters


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
        if path.is_symlink():
            raise TileError(f"{path}: is a symbolic link that leads to no file; make it again")
        raise TileError(f"{path}: no such file; check the name")
    tiles: list[tuple[str, Tile | TileError]] = []
    with open_fits(path) as hdus:
        numbers = select_images(hdus, path, options.hdu)
        if len(numbers) > 1:
            _require_names_of_planes(path, options)
        for number in numbers:
            label = f"[{image_label(hdus, number)}]" if key or len(numbers) > 1 else ""
            name = f"{path.name}{label}"
            try:
                tile = _tile_of_image(hdus, path, name, number, options)
                several = len(numbers) > 1 or key is not None
                values = instrument_of_image(hdus, number, several, options.instrument)
                tiles.append((name, replace(tile, instrument=values)))
            except TileError as error:
                tiles.append((name, error))
    return tiles


def _require_names_of_planes(path: Path, options: FileOptions) -> None:
    """Raise `TileError` if a number gives one mask, or one HDU of weights, to several images."""
    for kind in ("mask", "weight"):
        number = getattr(options, f"{kind}_hdu")
        if isinstance(number, int) and getattr(options, kind) is None:
            raise TileError(
                f"{path}: HDU {number} cannot be the {kind} of several images; give a name with "
                f"--{kind}-hdu"
            )


def _tile_of_image(
    hdus: fits.HDUList, path: Path, name: str, number: int, options: FileOptions
) -> Tile:
    """Make a tile from one image of an open file."""
    image, place = hdus[number], path.with_name(name)
    try:
        channels_first = channels_first_shape(tuple(int(length) for length in image.shape))
    except ValueError as error:
        raise TileError(f"{place}: {error}; choose another HDU with --hdu") from None
    channels, shape = require_pixels(str(place), channels_first)
    require_complete(image, path)
    # Other images are not read here: a compressed one would be decompressed for nothing.
    alpha = channels in ALPHA_PLANES and has_alpha(
        PixelPlane(pixel_reader(image, path), image.shape)
    )
    mask, weight, flags = find_quality(hdus, path, number, options)
    wcs_path = None if has_celestial(image.header) else companion(path, options.wcs)
    if wcs_path is not None and wcs_path.is_file():
        header = read_sidecar(wcs_path)
        require_same_size(wcs_path, header, shape)
        wcs = read_wcs(wcs_path, header, None)
    else:
        wcs_path, wcs = None, read_wcs(place, image.header, hdus)
    corners, scale = footprint(str(place), wcs, shape)
    return Tile(
        name=name,
        shape=shape,
        channels=channels - alpha,
        corners=corners,
        scale=scale,
        path=path,
        options=replace(options, hdu=number, mask_hdu=mask.hdu, weight_hdu=weight.hdu),
        unit=image_unit(image.header),
        bayer=bayer_pattern(image.header, channels),
        asinh=asinh_scale(image, path) is not None,
        wcs_parameters=wcs_parameters(wcs, edge_points(shape, POINTS_PER_SIDE)),
        wcs_path=wcs_path,
        groups=groups_of_image(hdus, path, number, options.group),
        frame=frame_name(wcs),
        mask_path=mask.path,
        weight_path=weight.path,
        ignored_flags=flags,
        alpha=alpha,
        saturation=min(saturation_level(hdu.header) for hdu in (image, hdus[0])),
    )
