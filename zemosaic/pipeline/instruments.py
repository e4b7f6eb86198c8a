"""Instruments, each with an illumination and a glow that its tiles share."""

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
    for index, mirrored in _mirrored(tiles).items():
        tile = tiles[index]
        place = tile.shape, tile.channels, mirrored
        keywords = tile.instrument if any(tile.instrument) else ()
        number = numbers.setdefault((keywords, *place), len(numbers))
        if number == len(names):
            names.append(_name(tile, mirrored))
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


def _name(tile: Tile, mirrored: bool) -> str:
    height, width = tile.shape
    words = [*dict.fromkeys(filter(None, tile.instrument)), f"{width}x{height}"]
    return " ".join([*words, *(["mirrored"] if mirrored else [])])


def _mirrored(tiles: Mapping[int, Tile]) -> dict[int, bool]:
    """Return whether right ascension grows to the right if declination grows upwards.

    The tiles are in the order of their indices.
    """
    indices = sorted(tiles)
    corners = np.array([tiles[index].corners for index in indices]).reshape(-1, 4, 2)
    longitude, latitude = np.deg2rad(corners).T
    first, second, third, _ = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude),
         np.sin(latitude)], axis=2,
    )  # fmt: skip
    normal = np.cross(second - first, third - first)
    return dict(zip(indices, ((first * normal).sum(axis=1) > 0).tolist(), strict=True))
