"""The gauge: degrees of freedom of the solution that no overlap constrains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .channel import Channel
from .groups import group_medians
from .shared_terms import SharedTerms


def in_reference_group(group: np.ndarray, component: np.ndarray, anchor: int | None) -> np.ndarray:
    """Find the tiles whose gain is comparable to the gain of the anchor or of most tiles.

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
        ``(T,)`` bool; false for a tile that is alone in its group.
    """
    size = np.bincount(group)[group]
    reference = np.zeros(component.max(initial=-1) + 1, dtype=int)
    largest_last = np.lexsort((group, -size))[::-1]
    reference[component[largest_last]] = group[largest_last]
    if anchor is not None:
        reference[component[anchor]] = group[anchor]
    return (group == reference[component]) & (size > 1)


def anchored(
    channel: Channel, anchor: int, terms: dict[str, np.ndarray], shared: SharedTerms
) -> tuple[np.ndarray, dict[str, np.ndarray], SharedTerms]:
    """Convert a solution to the units of a tile, so that it has gain 1 and offset 0.

    Its component is multiplied by one factor and shifted by one level. Components with comparable
    gains are multiplied by the same factor and keep their median sky, unless they share a bias with
    that of the anchor, which follows it.

    Parameters
    ----------
    channel : Channel
        Its tiles.
    anchor : int
        The tile.
    terms : dict of ndarray
        ``(T,)`` terms of the correction of each tile, and their errors.
    shared : SharedTerms
        Terms of the instruments.

    Returns
    -------
    unit : ndarray
        ``(T,)`` former gain of the anchor, or 1 for tiles whose gain is not comparable.
    terms : dict of ndarray
        The terms in the new units.
    shared : SharedTerms
        With another bias.
    """
    gains, levels = channel.gain_component, channel.component
    unit = np.where(gains == gains[anchor], terms["gain"][anchor], 1.0)
    shift = -terms["offset"][anchor] / unit[anchor]
    corrected = terms["gain"] * channel.sky + terms["offset"]
    median, _ = group_medians(levels, corrected, levels.max() + 1)
    kept = np.nan_to_num(median - median / unit[np.unique(levels, return_index=True)[1]])
    shifts = np.where(levels == levels[anchor], shift, kept[levels])
    converted = {name: values / unit for name, values in terms.items()}
    converted["offset"] = converted["offset"] + shifts
    label = channel.instruments.labels
    bias = np.where(shared.log_flat.any(axis=1), shared.bias / unit[anchor] + shift, shared.bias)
    has_bias = np.append(shared.log_flat.any(axis=1), False)[label]
    before, after = (np.append(values, 0.0)[label] for values in (shared.bias, bias))
    lights = (terms["offset"] - before) / unit + after
    converted["offset"] = np.where(has_bias, lights, converted["offset"])
    return unit, converted, replace(shared, bias=bias)
