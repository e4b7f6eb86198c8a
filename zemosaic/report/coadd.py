"""Coadd the thumbnails of the tiles, many at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..pipeline.illumination_file import Illumination
from ..pipeline.records import load_thumbnails
from ..pipeline.tables import SURFACE_POWERS
from .data import RunData

MAX_CHUNK = 1 << 20  # values of thumbnails computed at once
TABLE_SIDE = 513  # places along a tile between which an illumination is interpolated


@dataclass(frozen=True)
class _Chunk:
    """Some of the thumbnails, as large as the largest of them.

    Parameters
    ----------
    tiles : ndarray
        ``(n,)`` indices of the tiles.
    x, y : ndarray
        ``(n, 1, w)`` and ``(n, h, 1)`` columns and rows of the mosaic, from the grid's cell (0, 0).
    values : ndarray
        ``(n, C, h, w)`` float32; NaN beyond the edges of smaller ones.
    """

    tiles: np.ndarray
    x: np.ndarray
    y: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class ThumbnailStack:
    """The thumbnails with the factor of most tiles.

    Parameters
    ----------
    run : RunData
        The run.
    factor : int
        Grid cells along a side of a cell.
    tiles : ndarray
        ``(n,)`` indices of the tiles.
    images : list of ndarray
        ``(C, h, w)`` float32 of each.
    """

    run: RunData
    factor: int
    tiles: np.ndarray
    images: list[np.ndarray]

    @classmethod
    def load(cls, folder: Path, run: RunData) -> ThumbnailStack:
        """Return the thumbnails of a run folder."""
        thumb = np.where(run.tiles.is_placed, run.tiles.place["thumb"], 0)
        factors, counts = np.unique(thumb, return_counts=True)
        factor = int(factors[counts.argmax()]) if len(factors) else 0
        images = load_thumbnails(folder) if factor else {}
        # In an image of the whole sky a tile may be smaller than a cell.
        tiles = [
            index
            for index in np.flatnonzero(thumb == factor).tolist()
            if index in images and images[index].size
        ]
        return cls(run, factor, np.array(tiles, dtype=int), [images[index] for index in tiles])

    @cached_property
    def _starts(self) -> np.ndarray:
        """Column and row ``(n, 2)`` of the first whole cell inside the preview of each tile."""
        place = self.run.tiles.place[self.tiles]
        return -(-np.stack([place["x0"], place["y0"]], axis=1) // self.factor)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, h, w)`` of the mosaic."""
        sizes = np.array([image.shape[:0:-1] for image in self.images])
        width, height = np.ptp(np.concatenate([self._starts, self._starts + sizes]), axis=0)
        return len(self.images[0]), int(height), int(width)

    def _chunks(self) -> Iterator[_Chunk]:
        """Yield the thumbnails in order, in chunks of at most `MAX_CHUNK` values."""
        first, largest = 0, (0, 0)
        for end, image in enumerate([*self.images, None]):
            height, width = (0, 0) if image is None else image.shape[1:]
            grown = max(largest[0], height), max(largest[1], width)
            values = (end + 1 - first) * len(self.images[0]) * grown[0] * grown[1]
            if end > first and (image is None or values > MAX_CHUNK):
                yield self._chunk(first, end, largest)
                first, grown = end, (height, width)
            largest = grown

    def _chunk(self, first: int, end: int, shape: tuple[int, int]) -> _Chunk:
        values = np.full((end - first, self.shape[0], *shape), np.nan, dtype=np.float32)
        for own, image in zip(values, self.images[first:end], strict=True):
            own[:, : image.shape[1], : image.shape[2]] = image
        x, y = self._starts[first:end].T[..., None, None]
        return _Chunk(
            self.tiles[first:end], x + np.arange(shape[1]), y + np.arange(shape[0])[:, None], values
        )

    def coadd(self, corrected: bool) -> list[np.ndarray]:
        """Return mean and largest standard deviation of the tiles as `Mosaic` describes them.

        The corrected values are computed twice, so that few of them are in memory at a time.
        """
        shape, size = self.shape, int(np.prod(self.shape))
        total, count = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.int32)
        for cells, values in self._cells(corrected):
            np.add.at(total, cells, values)
            np.add.at(count, cells, np.int32(1))  # another type takes twenty times as long
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(count > 0, total / count, np.nan).astype(np.float32)
            squares = np.zeros(size, dtype=np.float32)
            for cells, values in self._cells(corrected):
                np.add.at(squares, cells, (values - mean[cells]) ** 2)
            spread = np.where(count > 1, np.sqrt(squares / (count - 1)), np.float32(np.nan))
        return [mean.reshape(shape), np.fmax.reduce(spread.reshape(shape), axis=0)]

    def _cells(self, corrected: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the places in the flattened mosaic and the values of the valid cells."""
        channels, height, width = self.shape
        left, bottom = self._starts.min(axis=0)
        for chunk in self._chunks():
            values = self._corrected(chunk) if corrected else chunk.values
            valid = np.isfinite(values)
            place = (chunk.y - bottom) * width + (chunk.x - left)
            places = place[:, None] + height * width * np.arange(channels)[:, None, None]
            yield np.broadcast_to(places, values.shape)[valid], values[valid]

    def _corrected(self, chunk: _Chunk) -> np.ndarray:
        """Return the corrected values; a tile without a correction keeps its values."""
        own = {name: column[chunk.tiles] for name, column in self.run.tiles.corrections.items()}
        known = np.isfinite(own["gain"]).all(axis=1)
        if own["gain"].shape[1] != chunk.values.shape[1]:
            return chunk.values
        gain, offset, bias = (_per_channel(own[name]) for name in ("gain", "offset", "bias"))
        x, y = self._tile_pixels(chunk)
        corrected = gain * chunk.values + offset
        for light in self.run.illuminations:
            lit = np.isin(chunk.tiles, light.tiles)
            if lit.any():
                corrected[lit] = self._without_light(
                    corrected[lit], gain[lit], bias[lit], light, chunk.tiles[lit], x[lit], y[lit]
                )
        for name, (power_x, power_y) in SURFACE_POWERS.items():
            if np.nan_to_num(own[name]).any():
                corrected += _per_channel(own[name]) * (x**power_x * y**power_y)[:, None]
        return np.where(known[:, None, None, None], corrected, chunk.values)

    def _without_light(
        self, corrected: np.ndarray, gain: np.ndarray, bias: np.ndarray, light: Illumination,
        tiles: np.ndarray, x: np.ndarray, y: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Return values of some tiles without the illumination and the glow."""
        height, width = self.run.tiles.place["shape"][tiles].T[..., None, None]
        # Beyond the edges of the tile the polynomials are no good.
        place = np.clip(2 * x / width, -1, 1), np.clip(2 * y / height, -1, 1)
        factor, glow = (part.swapaxes(0, 1) for part in _light_at(light, *place))
        return (corrected - gain * glow - bias) / factor + bias

    def _tile_pixels(self, chunk: _Chunk) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y ``(n, h, w)`` float32 of the cells in pixels from the tiles' centres."""
        place = self.run.tiles.place[chunk.tiles]
        middle = (self.factor - 1) / 2  # of a cell, in grid cells
        centre = place["centre"].T[..., None, None]
        u, v = (
            cell * self.factor + middle - c
            for cell, c in zip((chunk.x, chunk.y), centre, strict=True)
        )
        inverse = np.linalg.inv(place["jacobian"]).astype(np.float32)[..., None, None]
        return tuple(
            (inverse[:, k, 0] * u + inverse[:, k, 1] * v).astype(np.float32) for k in (0, 1)
        )


def _light_at(light: Illumination, x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Yield F and the glow ``(C, ...)`` float32 at detector coordinates, from a fine table."""
    cells = [(place + 1) * np.float32((TABLE_SIDE - 1) / 2) for place in (y, x)]
    row, column = (np.minimum(cell.astype(np.intp), TABLE_SIDE - 2) for cell in cells)
    down, right = cells[0] - row, cells[1] - column
    first = row * TABLE_SIDE + column
    steps = np.linspace(-1, 1, TABLE_SIDE)
    for table in light.on_grid(steps, steps):
        if np.ptp(table) == 0:
            yield np.full((len(table), *x.shape), table.flat[0], dtype=np.float32)
            continue
        corners = table.reshape(len(table), -1).astype(np.float32)
        near, far = (
            corners[:, start] + right * (corners[:, start + 1] - corners[:, start])
            for start in (first, first + TABLE_SIDE)
        )
        yield near + down * (far - near)


def _per_channel(numbers: np.ndarray) -> np.ndarray:
    """Return numbers ``(n, C)`` as ``(n, C, 1, 1)`` float32."""
    return numbers.astype(np.float32)[..., None, None]
