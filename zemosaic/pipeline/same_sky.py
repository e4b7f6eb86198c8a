"""The check that overlaps show the same sky: it finds a WCS or an orientation that is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from ..photometry.pairfit.measure import PairMeasurement
from ..photometry.pairfit.same_sky import ORIENTATIONS, UNLIKE, likeness, turned, unrotated
from ..photometry.preview.preview import Preview
from .records import PairRecord

ALIKE = 0.95  # correlation above which a pair is not examined
MOST_PAIRS = 100  # examined, strongest first
TRIAL_PAIRS = 6  # on which orientations are tried
EXPLAINED = 0.85  # likeness under an orientation that explains the disagreement
FEWEST_PAIRS = 2  # of a tile that alone is to blame
ROTATION = "rotated by the opposite angle (compare CROTA2 or CD1_2)"

LoadPreview = Callable[[int], Preview]


@dataclass(frozen=True)
class SkyCheck:
    """Overlaps that do not show the same sky.

    Parameters
    ----------
    doubt : str
        One line if most overlaps do not, empty otherwise.
    tiles : dict
        Otherwise the tiles to blame: the reason, in a few words, by index.
    """

    doubt: str = ""
    tiles: dict[int, str] = field(default_factory=dict)


def check_same_sky(records: Sequence[PairRecord], load: LoadPreview) -> SkyCheck:
    """Examine the pairs of low correlation.

    Parameters
    ----------
    records : sequence of PairRecord
        All pairs.
    load : callable
        Returns the preview of a tile.
    """
    load = cache(load)
    correlations = {
        (record.i, record.j): _correlation(record) for record in records if _has_result(record)
    }
    strongest = sorted(records, key=lambda record: -record.area)
    doubtful = [(r.i, r.j) for r in strongest if correlations.get((r.i, r.j), 1.0) < ALIKE]
    alike = {pair for pair, value in correlations.items() if value >= ALIKE}
    unlike = []
    for pair in doubtful[:MOST_PAIRS]:
        value = likeness(*map(load, pair))
        if value >= UNLIKE:
            alike.add(pair)
        elif value < UNLIKE:  # not NaN
            unlike.append(pair)
    if len(unlike) > len(alike):
        return SkyCheck(_doubt(unlike, load))
    tiles = _tiles_to_blame(unlike, alike)
    return SkyCheck(tiles={tile: _blame(tile, unlike, load) for tile in tiles})


def _has_result(record: PairRecord) -> bool:
    return record.outcome in ("measured", "rejected")


def _correlation(record: PairRecord) -> float:
    """Return the highest correlation of the channels; 0 if none was measured."""
    measured = [m for m in record.measurements if isinstance(m, PairMeasurement)]
    return max((m.correlation for m in measured), default=0.0)


def _tiles_to_blame(
    unlike: Collection[tuple[int, int]], alike: Collection[tuple[int, int]]
) -> list[int]:
    """Return the tiles with more unlike pairs than others, the worst first."""
    blamed: list[int] = []
    while True:
        excess = Counter(t for pair in unlike if not set(pair) & set(blamed) for t in pair)
        number = Counter(excess)
        excess.subtract(t for pair in alike if not set(pair) & set(blamed) for t in pair)
        candidates = [t for t in excess if number[t] >= FEWEST_PAIRS and excess[t] > 0]
        if not candidates:
            return blamed
        blamed.append(max(candidates, key=lambda t: (excess[t], -t)))


def _doubt(unlike: Sequence[tuple[int, int]], load: LoadPreview) -> str:
    reason = _explanation(unlike, {tile for pair in unlike for tile in pair}, load)
    remedy = f"; they would if the images were {reason}" if reason else ""
    return (
        "the overlaps do not show the same sky: the WCS of most tiles, or their orientation, is "
        f"wrong{remedy}; solve the plates again"
    )


def _blame(tile: int, unlike: Sequence[tuple[int, int]], load: LoadPreview) -> str:
    reason = _explanation([pair for pair in unlike if tile in pair], {tile}, load)
    remedy = f"; they would if it were {reason}" if reason else ""
    return f"its overlaps do not show the same sky: its WCS or its orientation is wrong{remedy}"


def _explanation(
    pairs: Sequence[tuple[int, int]], tiles: Collection[int], load: LoadPreview
) -> str:
    """Return the orientation of some tiles under which the pairs agree; empty if there is none."""
    best, reason = EXPLAINED, ""
    for name, orientation in (*ORIENTATIONS.items(), (ROTATION, None)):

        @cache
        def turn(tile: int, orientation: object = orientation) -> Preview:
            preview = load(tile)
            if tile not in tiles:
                return preview
            if orientation is None:
                return turned(preview, unrotated(preview.jacobian))
            return turned(preview, preview.jacobian @ np.array(orientation))

        agreement = np.median([likeness(turn(i), turn(j)) for i, j in pairs[:TRIAL_PAIRS]])
        if agreement > best:
            best, reason = float(agreement), name
    return reason
