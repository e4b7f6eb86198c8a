"""Whether two previews show the same sky, judged by their bright features alone.

A WCS may be wrong, or an image mirrored under a WCS that was solved before. The overlap then shows
two different parts of the sky, through which a line can be fitted nevertheless. Noise, gradients
and clouds make overlaps differ as well, so only features well above the noise count: where one
tile is bright, the other has to be brighter than elsewhere, by the ranks of its values. Ranks need
no gain and no offset.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..preview.preview import Preview
from ..robust import BIWEIGHT, GAUSSIAN_MEDIAN, HUBER

BACKGROUND_CELLS = 15  # side of the mean that is subtracted: gradients and clouds are wider
BRIGHT = 8.0  # standard deviations of a cell in a feature
FEWEST_BRIGHT = 10  # cells of features to judge an overlap by
FEWEST_CELLS = 60  # common cells to judge a scene by its correlation
MOST_CELLS = 5_000  # to judge it by, about
SURFACE_ROUNDS = 5  # with robust weights
CONTRAST = 1.5  # variance of a scene with its noise, in variances of noise, to judge it
FEATURE = 3.0  # robust standard deviations
LARGEST_FRACTION = 0.05  # of the cells of an overlap that count as features
#: Likeness below which an overlap shows different skies, and above which it shows the same: by
#: chance it is 0.5, in simulated tiles 0.93 to 1, or 0.6 with a trail in both.
UNLIKE, ALIKE = 0.7, 0.8
#: The same for the correlation: 0.96 and more in simulated tiles, below 0.6 for different skies.
UNCORRELATED, CORRELATED = 0.5, 0.8

FEWEST_STRUCTURED = 3  # overlaps without correlation that show structure of the tiles

#: Orientations in which images may lie under their WCS, as maps of pixel offsets (x, y).
ORIENTATIONS = {
    "mirrored top to bottom (compare ROWORDER)": ((1, 0), (0, -1)),
    "mirrored left to right": ((-1, 0), (0, 1)),
    "rotated by 180 degrees": ((-1, 0), (0, -1)),
    "rotated by 90 degrees": ((0, -1), (1, 0)),
    "rotated by 270 degrees": ((0, 1), (-1, 0)),
    "mirrored about a diagonal": ((0, 1), (1, 0)),
    "mirrored about the other diagonal": ((0, -1), (-1, 0)),
}


class Agreement(NamedTuple):
    """The likeness of the features of an overlap, and the correlation of its contrast; or NaN."""

    likeness: float
    correlation: float

    @classmethod
    def of(cls, first: Preview, second: Preview) -> Agreement:
        """Compare two previews."""
        return cls(likeness(first, second), scene_correlation(first, second))

    def is_same_sky(self, by_features: bool = False) -> bool | None:
        """Return whether the overlap shows one sky; None if nothing tells.

        The correlation does not count `by_features`.
        """
        same, different = self.likeness > ALIKE, self.likeness < UNLIKE
        if not by_features:
            same |= self.correlation > CORRELATED
            different |= self.correlation < UNCORRELATED
        return same if same != different else None


def tiles_have_structure(agreements: Sequence[Agreement]) -> bool:
    """Whether tiles have contrast of their own, as the residual of a flat.

    Overlaps of which the features agree then do not correlate.
    """
    alike = [pair for pair in agreements if pair.likeness > ALIKE]
    uncorrelated = [pair for pair in alike if pair.correlation < UNCORRELATED]
    return len(uncorrelated) >= FEWEST_STRUCTURED and 2 * len(uncorrelated) > len(alike)


def likeness(first: Preview, second: Preview) -> float:
    """Return how well the features of an overlap agree.

    Returns
    -------
    float
        Mean rank, from 0 to 1, of the values of one tile where the other is bright; the larger of
        both ways, because a trail is bright in one tile alone. About 0.5 for different skies,
        close to 1 for the same. NaN without features in both tiles. One channel decides: the
        middle one, unless it has too few features.
    """
    channels = list(range(len(first.values)))
    for channel in sorted(channels, key=lambda c: abs(c - len(channels) // 2)):
        a, b = (_contrast(p, channel, box) for p, box in _overlap(first, second))
        valid = np.isfinite(a) & np.isfinite(b)
        if not math.isnan(rank := _mean_rank(a[valid], b[valid])):
            return rank
    return math.nan


def scene_correlation(first: Preview, second: Preview) -> float:
    """Return the correlation of the contrast in an overlap, free of noise; the mean of channels.

    Surfaces of second order are subtracted from both tiles, since gradients correlate as well. The
    largest of three values counts: of all cells, and without the features of one or the other
    tile alone, because a trail is such a feature.

    Returns
    -------
    float
        About 0 for different skies, close to 1 for the same; noise may take it above 1. NaN with
        too few common cells, or without contrast beyond the noise in both tiles.
    """
    channels = (_channel_correlation(first, second, c) for c in range(len(first.values)))
    correlations = [value for value in channels if not math.isnan(value)]
    return float(np.mean(correlations)) if correlations else math.nan


def _channel_correlation(first: Preview, second: Preview, channel: int) -> float:
    """Return the correlation of the contrast in one channel."""
    overlap = _overlap(first, second)
    values = np.stack([p.values[channel][box].astype(np.float64) for p, box in overlap])
    variance = np.stack([p.variance[channel][box].astype(np.float64) for p, box in overlap])
    step = math.ceil(math.sqrt(values[0].size / MOST_CELLS)) or 1
    values, variance = values[:, ::step, ::step], variance[:, ::step, ::step]
    v, u = np.nonzero(np.isfinite(values).all(axis=0))
    if len(u) < FEWEST_CELLS:
        return math.nan
    noise = variance[:, v, u].mean(axis=1)
    contrast = np.stack([_flattened(layer, u, v) for layer in values[:, v, u]])
    scatter = np.median(np.abs(contrast), axis=1, keepdims=True) / GAUSSIAN_MEDIAN
    featured = np.abs(contrast) > FEATURE * scatter
    contrast = np.clip(contrast, -BIWEIGHT * scatter, BIWEIGHT * scatter)
    alone = featured & ~featured[::-1]
    kept = (np.ones(len(u), dtype=bool), *~alone)
    found = [_noise_free_correlation(contrast[:, cells], noise) for cells in kept]
    return max((value for value in found if not math.isnan(value)), default=math.nan)


def _flattened(values: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return values ``(N,)`` without a robust surface of second order."""
    u, v = (place / max(place.max(), 1) - 0.5 for place in (u, v))
    terms = np.stack([np.ones(len(u)), u, v, u * u, u * v, v * v], axis=1)
    weight = np.ones(len(u))
    for _ in range(SURFACE_ROUNDS):
        weighted = terms * weight[:, None]
        surface = np.linalg.pinv(weighted.T @ terms, hermitian=True) @ (weighted.T @ values)
        residual = values - terms @ surface
        limit = HUBER * np.median(np.abs(residual)) / GAUSSIAN_MEDIAN
        if not limit > 0:
            break
        weight = limit / np.maximum(np.abs(residual), limit)
    return np.asarray(residual)


def _noise_free_correlation(contrast: np.ndarray, noise: np.ndarray) -> float:
    """Return the correlation of contrast ``(2, N)`` with noise variances ``(2,)``, or NaN."""
    scatter = np.square(contrast).mean(axis=1)
    if contrast.shape[1] < FEWEST_CELLS or not (scatter > CONTRAST * noise).all():
        return math.nan
    return float(contrast.prod(axis=0).mean() / np.sqrt((scatter - noise).prod()))


def turned(preview: Preview, jacobian: np.ndarray, other: Preview) -> Preview:
    """Return the overlap with another preview as if the tile lay about its centre differently.

    `jacobian` ``(2, 2)`` describes the tile as it would lie.
    """
    return _moved(preview, replace(preview, jacobian=jacobian), other)


def on_one_detector(first: Preview, second: Preview) -> Preview:
    """Return the second preview as if its pixels lay at the places of the first's pixels.

    Hot pixels and dust then agree, and the sky does not. Only the overlap is returned.
    """
    return _moved(second, first, second)


def _moved(preview: Preview, place: Preview, other: Preview) -> Preview:
    """Resample a preview so that its pixels lie at the pixels of `place`, in an overlap."""
    from scipy.ndimage import map_coordinates

    rows, columns = _overlap(place, other)[0][1]
    x0, y0 = place.x0 + columns.start, place.y0 + rows.start
    shape = rows.stop - rows.start, columns.stop - columns.start
    v, u = np.indices(shape).reshape(2, -1)
    offsets = np.stack([u + x0, v + y0]) - place.centre[:, None]
    source = preview.jacobian @ np.linalg.inv(place.jacobian) @ offsets + preview.centre[:, None]
    rows_columns = (source - [[preview.x0], [preview.y0]])[::-1].reshape(2, *shape)
    values, variance = (
        np.stack([map_coordinates(layer, rows_columns, order=1, cval=np.nan) for layer in array])
        for array in (preview.values, preview.variance)
    )
    return replace(preview, x0=x0, y0=y0, values=values, variance=variance)


def unrotated(jacobian: np.ndarray) -> np.ndarray:
    """Return a Jacobian with the other sign of rotation."""
    return jacobian * np.array([[1.0, -1.0], [-1.0, 1.0]])


def _overlap(first: Preview, second: Preview) -> list[tuple[Preview, tuple[slice, slice]]]:
    """Return both previews with the rows and columns of their common cells."""
    corners = [
        (p.x0, p.y0, p.x0 + p.values.shape[2], p.y0 + p.values.shape[1]) for p in (first, second)
    ]
    left, top = np.max(corners, axis=0)[:2].tolist()
    right, bottom = np.min(corners, axis=0)[2:].tolist()
    return [
        (
            preview,
            (
                slice(top - preview.y0, max(top, bottom) - preview.y0),
                slice(left - preview.x0, max(left, right) - preview.x0),
            ),
        )
        for preview in (first, second)
    ]


def _contrast(preview: Preview, channel: int, box: tuple[slice, slice]) -> np.ndarray:
    """Return ``(h, w)`` a part of a channel without its background, in sigmas."""
    from scipy.ndimage import uniform_filter

    values = preview.values[channel][box].astype(np.float64)
    valid = np.isfinite(values)
    whole = valid.all()
    weight = 1.0 if whole else uniform_filter(valid.astype(np.float64), BACKGROUND_CELLS)
    known = values if whole else np.where(valid, values, 0.0)
    with np.errstate(all="ignore"):
        background = uniform_filter(known, BACKGROUND_CELLS) / weight
        contrast = (values - background) / np.sqrt(preview.variance[channel][box])
    return np.asarray(contrast, dtype=np.float32)  # sorted twice as fast


def _mean_rank(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean rank of one where the other has features, the better of both ways."""
    features = [_features(values) for values in (a, b)]
    if min(np.count_nonzero(bright) for bright in features) < FEWEST_BRIGHT:
        return math.nan
    ranks = [_ranks(other, bright).mean() for other, bright in zip((b, a), features, strict=True)]
    return float(max(ranks))


def _ranks(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the ranks of the chosen values, from 0 to 1; equal ones share the middle."""
    ordered, found = np.sort(values), values[chosen]
    places = [np.searchsorted(ordered, found, side) for side in ("left", "right")]
    return (places[0] + places[1]) / (2 * len(values))


def _features(values: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.zeros(0, dtype=bool)
    return values > max(BRIGHT, np.quantile(values, 1 - LARGEST_FRACTION))
