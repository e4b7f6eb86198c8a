"""Suspect tiles: most of their pairs contradict all others, as with a cloud or a wrong WCS."""

from __future__ import annotations

import numpy as np

from ..robust import GAUSSIAN_MEDIAN
from .channel import Channel
from .gauge import in_reference_group
from .groups import group_medians

SUSPECT_CHI = 6.0  # robust standard deviations: a pair beyond has the least weight
FEWEST_PAIRS = 2  # of a tile, to call it a suspect


def find_suspects(channel: Channel, chi: np.ndarray) -> np.ndarray:
    """Find the tiles with a median chi beyond `SUSPECT_CHI` robust deviations of all pairs.

    A bad tile makes its neighbours look bad. Therefore only the worst of each neighbourhood is
    taken at a time, and the others are judged again without its pairs.

    Parameters
    ----------
    channel : Channel
        Its pairs.
    chi : ndarray
        ``(P,)`` residuals of the pairs in units of their errors.

    Returns
    -------
    ndarray
        ``(T,)`` bool.
    """
    tiles, i, j = channel.tiles, channel.pairs.i, channel.pairs.j
    suspect = np.zeros(tiles, dtype=bool)
    limit = SUSPECT_CHI * max(1.0, float(np.nanmedian(chi)) / GAUSSIAN_MEDIAN) if len(chi) else 0.0
    while len(chi):
        median, count = group_medians(np.r_[i, j], np.r_[chi, chi], tiles)
        excess = np.where((count >= FEWEST_PAIRS) & (median > limit), median, 0.0)
        of_neighbours = np.zeros(tiles)
        np.maximum.at(of_neighbours, i, excess[j])
        np.maximum.at(of_neighbours, j, excess[i])
        worst = (excess > 0) & (excess >= of_neighbours)
        if not worst.any():
            break
        suspect |= worst
        sound = ~(worst[i] | worst[j])
        i, j, chi = i[sound], j[sound], chi[sound]
    return suspect


def tied_by_suspects(
    channel: Channel, used: np.ndarray, group: np.ndarray, suspect: np.ndarray
) -> np.ndarray:
    """Find the tiles with a gain that only pairs with a suspect tie to most others.

    Parameters
    ----------
    channel : Channel
        Its pairs.
    used : ndarray
        ``(P,)`` bool: pairs with a gain that was used.
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
    sound = used & ~(suspect[i] | suspect[j])
    sound_group = channel.ties.gain_components(i[sound], j[sound])
    tied = in_reference_group(group, channel.component, channel.anchor)
    still_tied = in_reference_group(sound_group, channel.component, channel.anchor)
    near_good = np.zeros(channel.tiles, dtype=bool)
    near_good[i[used & ~suspect[j]]] = near_good[j[used & ~suspect[i]]] = True
    return tied & ~still_tied & ~(suspect & near_good)
