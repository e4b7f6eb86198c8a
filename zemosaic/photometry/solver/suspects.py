"""Suspect tiles: most of their pairs contradict all others, as with a cloud or a wrong WCS."""

from __future__ import annotations

import numpy as np

from ..robust import GAUSSIAN_MEDIAN
from .channel import Channel
from .gauge import in_reference_group
from .groups import group_medians

SUSPECT_CHI = 6.0  # robust standard deviations: a pair beyond has the least weight
FEWEST_PAIRS = 2  # of a tile, to call it a suspect


def find_suspects(channel: Channel, chi: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Find the tiles with a median chi beyond `SUSPECT_CHI` robust deviations of all pairs.

    A bad tile makes its neighbours look bad. Therefore only the worst of each neighbourhood is
    taken at a time, and the others are judged again without its pairs.

    Parameters
    ----------
    channel : Channel
        Its pairs.
    chi : ndarray
        ``(P,)`` residuals of the pairs in units of their errors.
    known : ndarray
        ``(T,)`` bool: tiles known to be suspect.

    Returns
    -------
    ndarray
        ``(T,)`` bool, with the known ones.
    """
    suspect, limit = known, suspect_limit(chi)
    i, j = channel.pairs.i, channel.pairs.j
    while True:
        worst = worst_tiles(channel, np.where(suspect[i] | suspect[j], 0.0, chi), limit)
        if not worst.any():
            return suspect
        suspect = suspect | worst


def suspect_limit(chi: np.ndarray) -> float:
    """Return the median chi from which on a tile is suspect, by the `chi` ``(P,)`` of all pairs."""
    scale = float(np.median(chi)) / GAUSSIAN_MEDIAN if len(chi) else 1.0
    return SUSPECT_CHI * max(1.0, scale)


def worst_tiles(
    channel: Channel, chi: np.ndarray, limit: float, extreme: np.ndarray | None = None
) -> np.ndarray:
    """Find the tiles ``(T,)`` with a median chi beyond a limit, and not below any neighbour's.

    Pairs with a `chi` ``(P,)`` of 0 do not count. For `extreme` tiles ``(T,)`` the largest chi
    takes the place of the median: an extreme surface makes some pairs agree with anything.
    """
    # Levels of tiles without comparable gains contradict each other without a fault.
    comparable = channel.gain_group[channel.pairs.i] == channel.gain_group[channel.pairs.j]
    counted = (chi > 0) & comparable
    i, j, chi = channel.pairs.i[counted], channel.pairs.j[counted], chi[counted]
    evidence, count = group_medians(np.r_[i, j], np.r_[chi, chi], channel.tiles)
    if extreme is not None:
        largest = np.zeros(channel.tiles)
        np.maximum.at(largest, np.r_[i, j], np.r_[chi, chi])
        evidence = np.where(extreme, largest, evidence)
    excess = np.where((count >= FEWEST_PAIRS) & (evidence > limit), evidence, 0.0)
    of_neighbours = np.zeros(channel.tiles)
    np.maximum.at(of_neighbours, i, excess[j])
    np.maximum.at(of_neighbours, j, excess[i])
    return (excess > 0) & (excess >= of_neighbours)


def tied_by_suspects(
    channel: Channel,
    used: np.ndarray,
    agreeing: np.ndarray,
    group: np.ndarray,
    suspect: np.ndarray,
) -> np.ndarray:
    """Find the tiles with a gain tied to most others only by pairs with a suspect.

    A tile that agrees with a suspect, and not with its only good neighbour, is one of them.

    Parameters
    ----------
    channel : Channel
        Its pairs.
    used : ndarray
        ``(P,)`` bool: pairs with a gain that was used.
    agreeing : ndarray
        ``(P,)`` bool: pairs with residuals no larger than those of a tile without suspicion.
    group : ndarray
        ``(T,)`` int: tiles joined by these pairs.
    suspect : ndarray
        ``(T,)`` bool.

    Returns
    -------
    ndarray
        ``(T,)`` bool. Suspects with a pair to a good tile are not included: a single wrong gain
        can make a suspect of a good tile as well, whereas a bad one has other neighbours.
    """
    i, j = channel.pairs.i, channel.pairs.j
    near_suspect, near_good = np.zeros((2, channel.tiles), dtype=bool)
    for tile, other in ((i, j), (j, i)):
        near_suspect[tile[used & agreeing & suspect[other]]] = True
        near_good[tile[used & ~suspect[other]]] = True
    sound = used & ~(suspect[i] | suspect[j]) & (agreeing | ~(near_suspect[i] | near_suspect[j]))
    sound_group = channel.ties.gain_components(i[sound], j[sound])
    tied = in_reference_group(group, channel.component, channel.anchor)
    still_tied = in_reference_group(sound_group, channel.component, channel.anchor)
    return tied & ~still_tied & ~(suspect & near_good)


def doubtful_tiles(channel: Channel, chosen: np.ndarray) -> np.ndarray:
    """Find which of some tiles ``(T,)`` can lose their pairs while all others stay connected."""
    i, j, nodes = channel.pairs.i, channel.pairs.j, channel.ties
    sound = ~(chosen[i] | chosen[j])
    doubtful = chosen.copy()
    for component in (
        nodes.level_components(i[sound], j[sound]),
        nodes.gain_components(i[sound], j[sound]),
    ):
        lowest, highest = np.full(len(chosen), len(chosen)), np.full(len(chosen), -1)
        for tile, other in ((i, j), (j, i)):
            near = chosen[tile] & ~chosen[other]
            np.minimum.at(lowest, tile[near], component[other[near]])
            np.maximum.at(highest, tile[near], component[other[near]])
        doubtful &= lowest >= highest
    return doubtful
