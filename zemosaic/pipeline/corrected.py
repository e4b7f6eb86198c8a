"""Corrected pixels of one tile, in the kind of object given for it."""

from __future__ import annotations

import os
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits

from ..errors import UserError
from ..photometry.apply.arrays import correct, pixel_factor
from ..photometry.apply.companions import UNCERTAINTY_TYPES
from ..photometry.apply.keywords import Transform, update_keywords
from ..photometry.solver.solve import Correction
from ..photometry.tiles.axes import from_channels_first
from ..photometry.tiles.blanks import find_blanks
from ..photometry.tiles.objects import IMAGE_HDUS, is_nddata
from ..photometry.tiles.tile import Tile
from .solution import PhaseSolution
from .tables import parse_unit


def corrected_tile(solution: PhaseSolution, tile: Any) -> Any:
    """Return a corrected tile, see `PhaseSolution.correct`."""
    index = find_tile(solution, tile)
    own = solution.tiles.get(index)
    if own is None or np.isnan(solution.gain[index]).any():
        reason = solution.failed.get(index, f"{solution.names[index]}: has no correction")
        raise UserError(reason)
    correction = solution.correction(index)
    image = _in_layout(correct(_pixels(own), correction), own)
    if is_nddata(tile):
        return _corrected_nddata(tile, image, own, correction)
    if isinstance(tile, IMAGE_HDUS):
        return fits.ImageHDU(image, _updated(tile.header, correction))
    if isinstance(tile, u.Quantity):
        return image * tile.unit
    return image if isinstance(tile, np.ndarray) else _ccd_data(image, own)


def _pixels(tile: Tile) -> np.ndarray:
    """Return the pixels of a tile ``(C, H, W)``, NaN for the fill value as well."""
    image, blanks = tile.pixels(), find_blanks(tile)
    if blanks is not None:
        image[:, blanks.mask] = np.nan
    return image


def _in_layout(image: np.ndarray, tile: Tile) -> np.ndarray:
    """Return ``(C, H, W)`` in the layout of the tile's array; without a channel axis for one."""
    if tile.data is not None and not tile.alpha:
        return from_channels_first(image, tile.data.shape)
    return image[0] if tile.channels == 1 else image


def find_tile(solution: PhaseSolution, tile: Any) -> int:
    """Return the index of a tile, given as `PhaseSolution.correct` takes it.

    Raises
    ------
    UserError
        It is none of the tiles, or several have its name.
    """
    if isinstance(tile, (int, np.integer)):
        if not -len(solution.names) <= tile < len(solution.names):
            raise UserError(f"tile {tile}: there are tiles 0 to {len(solution.names) - 1}")
        return int(tile) % len(solution.names)
    if isinstance(tile, (str, os.PathLike)):
        text = os.fspath(tile)
        matches = [
            index
            for index, name in enumerate(solution.names)
            if name == text or text == _place(solution.tiles.get(index))
        ]
        label = text
    else:
        tile = tile[0] if isinstance(tile, tuple) else tile
        data = tile if isinstance(tile, np.ndarray) else getattr(tile, "data", None)
        matches = [
            index
            for index, own in solution.tiles.items()
            if own is tile or (own.data is not None and _same_memory(own.data, data))
        ]
        label = f"this {type(tile).__name__}"
    if len(matches) != 1:
        problem = "is none of the tiles" if not matches else "names more than one tile"
        raise UserError(f"{label}: {problem}; give the index of one")
    return matches[0]


def _place(tile: Tile | None) -> str:
    return "" if tile is None or tile.path is None else str(Path(tile.place))


def _same_memory(first: np.ndarray, second: Any) -> bool:
    """Return whether two arrays are the same, or views of the same pixels."""
    if not isinstance(second, np.ndarray) or first.shape != second.shape:
        return False
    ours, theirs = first.__array_interface__, second.__array_interface__
    return ours["data"] == theirs["data"] and first.strides == second.strides


def _ccd_data(image: np.ndarray, tile: Tile) -> Any:
    """Return an image in memory as `CCDData`, with a mask of the pixels without a value."""
    from astropy.nddata import CCDData

    unit = parse_unit(tile.unit or "adu")
    return CCDData(image, unit=unit, wcs=tile.wcs, mask=np.isnan(image))


def _corrected_nddata(original: Any, image: np.ndarray, tile: Tile, correction: Correction) -> Any:
    """Return a copy of an `NDData` with corrected pixels and the uncertainty scaled accordingly."""
    uncertainty = original.uncertainty
    if uncertainty is not None:
        power = UNCERTAINTY_TYPES[type(uncertainty).__name__]
        factor = pixel_factor(correction) ** power
        factor = np.broadcast_to(factor, (tile.channels, *tile.shape))
        uncertainty = type(uncertainty)(uncertainty.array * _in_layout(factor, tile))
    missing = np.isnan(image)
    meta = original.meta
    return type(original)(
        image,
        uncertainty=uncertainty,
        mask=missing if original.mask is None else original.mask | missing,
        wcs=original.wcs,
        meta=_updated(meta, correction) if isinstance(meta, fits.Header) else copy(meta),
        unit=original.unit,
    )


def _updated(header: fits.Header, correction: Correction) -> fits.Header:
    """Return a copy of a header with keywords updated for a correction, as in a corrected file."""
    header = header.copy()
    for key in ("BLANK", "BSCALE", "BZERO"):
        header.remove(key, ignore_missing=True)
    update_keywords(header, Transform.of(correction))
    return header
