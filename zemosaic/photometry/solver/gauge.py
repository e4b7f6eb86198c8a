"""The gauge: degrees of freedom of the solution that no overlap constrains."""

from __future__ import annotations

import numpy as np

from .channel import Channel
from .groups import group_medians


def in_reference_group(group: np.ndarray, component: np.ndarray, anchor: int | None) -> np.ndarray:
    """Find the tiles with a gain comparable to the gain of the anchor or of most tiles.

    Parameters
    ----------
    group : ndarray
        ``(T,)`` int: tiles joined by pairs with a measured gain.
    component : ndarray
        ``(T,)`` int: tiles joined by any pairs.
    anchor : int or None
        A tile; its group is the reference of its component. In other components the largest group
        is, or the first of several.

    Returns
    -------
    ndarray
        ``(T,)`` bool; false for a tile alone in its group.
    """
    size = np.bincount(group)[group]
    reference = np.zeros(component.max(initial=-1) + 1, dtype=int)
    largest_last = np.lexsort((group, -size))[::-1]
    reference[component[largest_last]] = group[largest_last]
    if anchor is not None:
        reference[component[anchor]] = group[anchor]
    return (group == reference[component]) & (size > 1)


def anchored(
    channel: Channel, anchor: int, terms: dict[str, np.ndarray], lit: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Convert a solution to the units of a tile, giving it gain 1 and offset 0.

    Its component is multiplied by one factor and shifted by one level. Components with comparable
    gains are multiplied by the same factor and keep their median sky.

    Parameters
    ----------
    channel : Channel
        Its tiles.
    anchor : int
        The tile.
    terms : dict of ndarray
        ``(T,)`` terms of the correction of each tile, and their errors.
    lit : ndarray
        ``(T,)`` bool: tiles with an illumination, and so a bias.

    Returns
    -------
    unit : ndarray
        ``(T,)`` former gain of the anchor, or 1 for tiles without a comparable gain.
    terms : dict of ndarray
        The terms in the new units.
    """
    gains = channel.gain_component
    unit = np.where(gains == gains[anchor], terms["gain"][anchor], 1.0)
    shift = -terms["offset"][anchor] / unit[anchor]
    shifts = _level_shifts(channel, anchor, terms, unit, shift)
    converted = {name: values / unit for name, values in terms.items()}
    converted["offset"] += shifts
    converted["bias"] += np.where(lit, shifts, 0.0)
    return unit, converted


def _level_shifts(
    channel: Channel, anchor: int, terms: dict[str, np.ndarray], unit: np.ndarray, shift: float
) -> np.ndarray:
    """Return the shifts ``(T,)`` after a division by `unit` ``(T,)``.

    The shift of the anchor's component is given; all others keep their median sky.
    """
    component = channel.component
    corrected = terms["gain"] * channel.sky + terms["offset"]
    median = group_medians(component, corrected, component.max() + 1)[0][component]
    kept = np.nan_to_num(median - median / unit)
    return np.where(component == component[anchor], shift, kept)
