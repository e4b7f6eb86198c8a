"""The check that overlaps show the same sky: it finds a wrong WCS or orientation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import chain
from typing import Any

import numpy as np

from ..photometry.pairfit.same_sky import (
    ALIKE,
    ORIENTATIONS,
    Agreement,
    likeness,
    on_one_detector,
    scene_correlation,
    tiles_have_structure,
    turned,
    unrotated,
)
from ..photometry.preview.preview import Preview
from .packed_measurements import measured_heads
from .records import PairRecord
from .tasks import MAPPED_PREVIEWS

CORRELATED = 0.95  # of a pair not examined at first
UNCORRELATED = 0.5  # correlation below which the scene of a pair may be two
MANY = 0.25  # fraction of such pairs if most tiles may be wrong
MOST_PAIRS = 50  # of one kind
LARGEST_PAIRS = 25  # doubtful ones by which most tiles are judged
TRIAL_PAIRS = 6  # on which orientations are tried
EXPLAINED = 0.85  # likeness or correlation under an orientation that explains the disagreement
# Unlike pairs, with and without an orientation that explains them; fewer may be due to trails.
FEWEST_EXPLAINED, FEWEST_UNLIKE = 2, 3
FEWEST_PAIRS = 2  # of a tile that alone is to blame
Pair = tuple[int, int]
LoadPreview = Callable[[int], Preview]

ROTATION = "rotated by the opposite angle (compare CROTA2 or CD1_2)"


@dataclass(frozen=True)
class SkyCheck:
    """Overlaps that do not show the same sky.

    Parameters
    ----------
    doubt : str
        One line if most overlaps do not, empty otherwise.
    tiles : dict
        Otherwise the tiles to blame: the reason, in a few words, by index.
    pairs : frozenset of tuple
        Pairs that show different skies, and all pairs of these tiles.
    """

    doubt: str = ""
    tiles: dict[int, str] = field(default_factory=dict)
    pairs: frozenset[Pair] = frozenset()

    @property
    def unclear(self) -> int:
        """Number of pairs that show different skies without a tile to blame or a general doubt."""
        return 0 if self.doubt else sum(not set(pair) & set(self.tiles) for pair in self.pairs)


def check_same_sky(records: Sequence[PairRecord], load: LoadPreview) -> SkyCheck:
    """Examine the pairs of low correlation.

    Parameters
    ----------
    records : sequence of PairRecord
        All pairs.
    load : callable
        Returns the preview of a tile.
    """
    load = lru_cache(MAPPED_PREVIEWS)(load)
    correlations = {
        (record.i, record.j): _correlation(record) for record in records if _has_result(record)
    }
    strongest = [(r.i, r.j) for r in sorted(records, key=lambda record: -record.area)]
    doubtful = [pair for pair in strongest if correlations.get(pair, 1.0) < CORRELATED]
    worst = sorted(doubtful, key=lambda pair: correlations[pair])[:MOST_PAIRS]

    @cache
    def agreement(pair: Pair) -> Agreement:
        return Agreement.of(*map(load, pair))

    structured = tiles_have_structure([agreement(pair) for pair in worst])

    def compare(pair: Pair) -> bool | None:
        return agreement(pair).is_same_sky(by_features=structured)

    many = 2 * len(doubtful) > len(strongest)
    if many and (doubt := _doubt_all(doubtful, correlations, load, compare)):
        return SkyCheck(doubt, pairs=frozenset(p for p in strongest if compare(p) is False))
    unlike = [pair for pair in worst if compare(pair) is False]
    if not unlike or _shows_detector(unlike, load):
        return SkyCheck()
    near = set(chain.from_iterable(unlike))
    neighbours = [pair for pair in strongest if near & set(pair) and pair in correlations]
    alike = [p for p in neighbours if p not in unlike and compare(p)]
    tiles = _tiles_to_blame(unlike, alike)
    return SkyCheck(
        tiles={tile: _blame(tile, unlike, load) for tile in tiles},
        pairs=frozenset(unlike) | {pair for pair in strongest if set(pair) & set(tiles)},
    )


def _doubt_all(
    doubtful: Sequence[Pair],
    correlations: Mapping[Pair, float],
    load: LoadPreview,
    compare: Callable[[Pair], bool | None],
) -> str:
    """Return a line if most tiles are wrong; empty otherwise. The largest overlaps decide."""
    judged = {pair: compare(pair) for pair in doubtful[:LARGEST_PAIRS]}
    unlike = [pair for pair, value in judged.items() if value is False]
    uncorrelated = [
        pair for pair, alike in judged.items() if correlations[pair] < UNCORRELATED and not alike
    ]
    many = MANY * len(correlations) * len(judged) / len(doubtful)
    if len(uncorrelated) >= max(FEWEST_UNLIKE, many) and (
        reason := _explanation(uncorrelated, load, scene_correlation)
    ):
        return _doubt(reason)
    # Gradients correlate as well, so the features of the other pairs are looked at now.
    others = [pair for pair in correlations if correlations[pair] >= CORRELATED][:MOST_PAIRS]
    judged |= {pair: compare(pair) for pair in others} if unlike else {}
    alike = [pair for pair, value in judged.items() if value]
    if len(unlike) <= len(alike):
        return ""
    reason = _explanation(unlike, load)
    blamed = _tiles_to_blame(unlike, alike)
    good = {tile for pair in alike if not set(pair) & set(blamed) for tile in pair}
    fewest = min(FEWEST_EXPLAINED if reason else FEWEST_UNLIKE, len(correlations))
    if len(unlike) < fewest or not (reason or len(blamed) >= len(good)):
        return ""
    return "" if not reason and _shows_detector(unlike, load) else _doubt(reason)


def _has_result(record: PairRecord) -> bool:
    return record.outcome in ("measured", "rejected")


def _correlation(record: PairRecord) -> float:
    """Return the highest correlation of the channels; 0 if none was measured."""
    heads = measured_heads(record.measurements)
    return max((head["correlation"] for head in heads), default=0.0)


def _tiles_to_blame(unlike: Collection[Pair], alike: Collection[Pair]) -> list[int]:
    """Return the tiles with more unlike pairs than alike ones, the worst first.

    Each is judged without its pairs with the tiles before it, which make it look bad.
    """
    total = Counter(chain.from_iterable(unlike))
    blamed: list[int] = []
    while True:
        excess: Counter[int] = Counter()
        for pairs, sign in ((unlike, 1), (alike, -1)):
            for pair in pairs:
                if not set(pair) & set(blamed):
                    excess.update(dict.fromkeys(pair, sign))
        candidates = [t for t in excess if total[t] >= FEWEST_PAIRS and excess[t] > 0]
        if not candidates:
            return blamed
        blamed.append(max(candidates, key=lambda tile: (excess[tile], total[tile], -tile)))


def _doubt(reason: str) -> str:
    remedy = f"; they would if the images were {reason}" if reason else ""
    return (
        "the overlaps do not show the same sky: the WCS of most tiles, or their orientation, is "
        f"wrong{remedy}; solve the plates again"
    )


def _blame(tile: int, unlike: Sequence[Pair], load: LoadPreview) -> str:
    reason = _explanation([pair for pair in unlike if tile in pair], load, tiles={tile})
    remedy = f"; they would if it were {reason}" if reason else ""
    return f"its overlaps do not show the same sky: its WCS or its orientation is wrong{remedy}"


def _shows_detector(pairs: Sequence[Pair], load: LoadPreview) -> bool:
    """Whether the features are hot pixels, at the same place in both images."""
    tiles = [(load(i), load(j)) for i, j in pairs[:TRIAL_PAIRS]]
    return bool(np.median([likeness(i, on_one_detector(i, j)) for i, j in tiles]) > ALIKE)


def _explanation(
    pairs: Sequence[Pair],
    load: LoadPreview,
    agreement: Callable[[Preview, Preview], float] = likeness,
    tiles: Collection[int] | None = None,
) -> str:
    """Return the orientation under which pairs agree; empty if there is none.

    `tiles` are turned, by default all.
    """
    best, reason = EXPLAINED, ""
    for name, orientation in (*ORIENTATIONS.items(), (ROTATION, None)):

        def turn(pair: Pair, orientation: Any = orientation) -> Iterator[Preview]:
            for tile, other in (pair, pair[::-1]):
                preview = load(tile)
                if tiles is not None and tile not in tiles:
                    yield preview
                elif orientation is None:
                    yield turned(preview, unrotated(preview.jacobian), load(other))
                else:
                    yield turned(preview, preview.jacobian @ np.array(orientation), load(other))

        values = [agreement(*turn(pair)) for pair in pairs[:TRIAL_PAIRS]]
        values = [value for value in values if not math.isnan(value)]
        if 2 * len(values) > len(pairs[:TRIAL_PAIRS]) and np.median(values) > best:
            best, reason = float(np.median(values)), name
    return reason
