"""Instruments, whose tiles share an illumination and a glow."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from ..photometry.illumination import Instruments
from ..photometry.tiles.file_options import instrument_keywords
from ..photometry.tiles.tile import Tile
from .run_context import RunContext


def find_instruments(context: RunContext, count: int, tiles: Mapping[int, Tile]) -> Instruments:
    """Return the instruments of `count` tiles, of which some are usable, by `instrument`.

    Tiles of one instrument have the same keywords, the same shape and number of channels, and are
    both mirrored or both not. An array has no keywords, as a file with
    none of them.
    """
    option = context.settings.instrument
    if option == "none":
        return Instruments.none(count)
    if option != "auto":
        _warn_about_missing(context, instrument_keywords(option), tiles)
    labels, names = np.full(count, -1), list[str]()
    numbers: dict[tuple[object, ...], int] = {}
    for index in sorted(tiles):
        tile = tiles[index]
        place = tile.shape, tile.channels, _is_mirrored(tile)
        keywords = tile.instrument if any(tile.instrument) else ()
        number = numbers.setdefault((keywords, *place), len(numbers))
        if number == len(names):
            names.append(_name(tile))
        labels[index] = number
    return Instruments(labels, tuple(names))


def _warn_about_missing(
    context: RunContext, keywords: tuple[str, ...], tiles: Mapping[int, Tile]
) -> None:
    missing = [
        keyword
        for number, keyword in enumerate(keywords)
        if not any(tile.instrument[number : number + 1] > ("",) for tile in tiles.values())
    ]
    if missing:
        context.note(
            logging.WARNING,
            f"no tile has the keyword {' or '.join(missing)} of --instrument; choose another",
        )


def _name(tile: Tile) -> str:
    height, width = tile.shape
    words = [*dict.fromkeys(filter(None, tile.instrument)), f"{width}x{height}"]
    return " ".join([*words, *(["mirrored"] if _is_mirrored(tile) else [])])


def _is_mirrored(tile: Tile) -> bool:
    """Return whether right ascension grows to the right where declination grows upwards."""
    longitude, latitude = np.deg2rad(tile.corners).T
    first, second, third, _ = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude),
         np.sin(latitude)], axis=1,
    )  # fmt: skip
    return bool(np.dot(first, np.cross(second - first, third - first)) > 0)
