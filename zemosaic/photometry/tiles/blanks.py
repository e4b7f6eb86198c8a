"""Pixels with a number but no datum: the fill value of registered frames.

Programs that register frames fill the canvas around them, most often with zeros. Such a value is
found by its place: 0 fills the ends of rows or columns for longer than chance would have it, about
one piece of data. A sky that really is 0 does not. A value far below all others is no datum
anywhere, and one far above them is none where it reaches the edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .blank_survey import FEWEST, Survey, common_value
from .file_options import FileOptions
from .tile import Tile

#: Pixels read at once.
STRIP_PIXELS = 1 << 16
#: Shortest run of equal pixels from the edge of the image that is no chance.
LEAST_RUN = 3
#: Expected number of runs by chance in a tile.
CHANCE = 1e-3
#: Side of a square of equal pixels that chance hardly makes.
SOLID = 5
#: Distance of such a value from the median, in standard deviations of the others.
FAR = 5.0
#: Fewest pixels next to each other for an estimate of the chance of a repetition.
FEWEST_NEIGHBOURS = 20
#: Chance of a repetition up to which a region includes all equal pixels connected to it.
RARE = 0.01
#: Widest rim in pixels, half of a Lanczos kernel, and the distance at which data is sound.
WIDEST_RIM, SOUND = 4, 12
#: Difference of the median in a rim from the trend of sound data, in standard errors.
RIM_ERRORS = 6.0
#: Standard error of the median of one value, in standard deviations.
MEDIAN_ERROR = 1.2533
#: A pixel and its eight neighbours.
SQUARE = np.ones((3, 3), dtype=bool)
#: Share of the pixels with another value in a tile with blanks.
LEAST_DATA = 1e-3
#: Share of these in large pieces, and share of the image filled by such a piece.
IN_PIECES, PIECE = 0.5, 0.01


@dataclass(frozen=True, eq=False)
class Blanks:
    """The pixels of a tile that hold no datum.

    Parameters
    ----------
    value : float
        Their value, in all channels.
    mask : ndarray
        ``(H, W)`` bool, true for these pixels.
    rim : int
        Width of the rim about them in pixels, where interpolation has mixed the fill value into
        the data.
    """

    value: float
    mask: np.ndarray
    rim: int = 0

    @property
    def count(self) -> int:
        """Number of the pixels."""
        return int(np.count_nonzero(self.mask))

    def grown(self) -> np.ndarray:
        """Return the mask with its rim."""
        from scipy import ndimage

        if self.rim == 0:
            return self.mask
        return ndimage.binary_dilation(self.mask, SQUARE, iterations=self.rim)


def find_blanks(tile: Tile, survey: Survey | None = None) -> Blanks | None:
    """Find the fill value of a tile and the pixels that it fills; None if there is none.

    With ``tile.options.blank`` a number, all pixels of this value in all channels are blank.

    Parameters
    ----------
    tile : Tile
        The tile.
    survey : Survey or None
        Survey of all its strips; None makes one.

    Raises
    ------
    TileError
        The tile cannot be read to its end.
    """
    option = tile.options.blank
    if option == FileOptions.NO_BLANK:
        return None
    if option != FileOptions.AUTO_BLANK:
        mask, _ = _equal_pixels(tile, float(option))
        return Blanks(float(option), mask) if mask.any() else None
    if survey is None:
        survey = Survey(tile.shape[0])
        for _, strip in _strips(tile):
            survey.add(strip)
    found = [_blanks_of(tile, value, survey) for value in survey.candidates()]
    return max((blanks for blanks in found if blanks), key=lambda b: b.count, default=None)


def _strips(tile: Tile) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row and the pixels of each strip."""
    rows = max(1, STRIP_PIXELS // (tile.channels * tile.shape[1]))
    for number, strip in enumerate(tile.strips(rows)):
        yield number * rows, strip


def _equal_pixels(tile: Tile, value: float) -> tuple[np.ndarray, np.ndarray]:
    """Return masks ``(H, W)`` of the pixels with a value, and of pixels without a finite one."""
    equal, missing = np.zeros((2, *tile.shape), dtype=bool)
    for top, strip in _strips(tile):
        rows = slice(top, top + strip.shape[1])
        equal[rows] = common_value(strip) == np.float32(value)
        missing[rows] = ~np.isfinite(strip).any(axis=0)
    return equal, missing


def _blanks_of(tile: Tile, value: float, survey: Survey) -> Blanks | None:
    """Return the pixels that a value fills without being a datum; None if there are none."""
    distance = survey.distance(value)
    if value != 0 and abs(distance) < FAR:
        return None
    equal, missing = _equal_pixels(tile, value)
    data = ~(equal | missing)
    if np.count_nonzero(data) < LEAST_DATA * data.size:
        return None
    region = equal if distance < -FAR else _edge_region(equal, data)
    if np.count_nonzero(region) < FEWEST:
        return None
    return Blanks(value, region, _rim(tile, region))


def _edge_region(equal: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Return the pixels of a value that fill the ends of rows and columns about the data.

    Parameters
    ----------
    equal, data : ndarray
        ``(H, W)`` bool: pixels with the value, and pixels with another one.
    """
    from scipy import ndimage

    repetition = _repetition(equal)
    region = _edge_runs(~data, _least_run(repetition, data.size)) & equal
    if not _in_pieces(data):
        return np.zeros_like(equal)
    if repetition < RARE:
        labels, _ = ndimage.label(equal)
        region = np.isin(labels, np.unique(labels[region]))
    return region


def _rim(tile: Tile, mask: np.ndarray) -> int:
    """Return the width of the rim with data that does not continue the data farther away."""
    from scipy import ndimage

    distance = ndimage.distance_transform_cdt(~mask, metric="chessboard")
    distances, values = [], []
    for top, strip in _strips(tile):
        of_rows = distance[top : top + strip.shape[1]]
        near = (of_rows > 0) & (of_rows <= SOUND) & np.isfinite(strip[0])
        distances.append(of_rows[near])
        values.append(strip[0][near].astype(np.float64))
    distance, value = np.concatenate(distances), np.concatenate(values)
    rings = [value[distance == width] for width in range(1, SOUND + 1)]
    if min(len(ring) for ring in rings) < FEWEST:
        return 0
    width, sound = np.arange(1, SOUND + 1), slice(WIDEST_RIM, None)
    medians = np.array([np.median(ring) for ring in rings])
    trend = np.polynomial.Polynomial.fit(width[sound], medians[sound], 1)
    low, high = np.percentile(np.concatenate(rings[sound]), [15.9, 84.1])
    error = MEDIAN_ERROR * (high - low) / 2 / math.sqrt(min(len(ring) for ring in rings))
    error = math.hypot(error, np.std(medians[sound] - trend(width[sound])))
    mixed = np.abs(medians - trend(width)) > RIM_ERRORS * error
    return int(np.max(width[:WIDEST_RIM][mixed[:WIDEST_RIM]], initial=0))


def _in_pieces(data: np.ndarray) -> bool:
    """Whether most pixels of a mask are in few large pieces, and not in stars on a sky of 0."""
    from scipy import ndimage

    labels, _ = ndimage.label(data, SQUARE)
    sizes = np.bincount(labels.ravel())[1:]
    return bool(sizes[sizes >= PIECE * data.size].sum() >= IN_PIECES * sizes.sum())


def _repetition(equal: np.ndarray) -> float:
    """Estimate the chance that a datum of this value is followed by another one.

    Solid squares, and runs that reach the edge, are the blanks in question and do not count.
    """
    from scipy import ndimage

    inside = equal & ~_edge_runs(equal, 1)
    if not inside.any():
        return 0.0
    inside &= ~ndimage.binary_opening(equal, np.ones((SOLID, SOLID), dtype=bool))
    chances = []
    for along in (inside, inside.T):
        count = np.count_nonzero(along[:, :-1])
        if count >= FEWEST_NEIGHBOURS:
            chances.append(np.count_nonzero(along[:, :-1] & along[:, 1:]) / count)
    return max(chances, default=0.0)


def _least_run(repetition: float, pixels: int) -> int:
    """Return the length from which a run of equal pixels is no chance in a tile."""
    if repetition <= 0:
        return LEAST_RUN
    if repetition >= 1:
        return pixels
    return max(LEAST_RUN, math.ceil(math.log(CHANCE / pixels) / math.log(repetition)))


def _edge_runs(equal: np.ndarray, least: int) -> np.ndarray:
    """Return a mask of the runs along rows and columns that begin at the edge of the image."""
    runs = np.zeros_like(equal)
    for image, out in ((equal, runs), (equal.T, runs.T)):
        for step in (1, -1):
            _add_leading_runs(image[:, ::step], least, out[:, ::step])
    return runs


def _add_leading_runs(equal: np.ndarray, least: int, runs: np.ndarray) -> None:
    """Add the runs that begin in the first column to a mask, in place."""
    length = np.where(equal.all(axis=1), equal.shape[1], (~equal).argmax(axis=1))
    length[length < least] = 0
    runs |= np.arange(equal.shape[1]) < length[:, None]
