"""The gauge: degrees of freedom of the solution that no overlap constrains."""

from __future__ import annotations

import numpy as np

from .groups import group_medians

FAR_SLOPE = 5.0  # median absolute deviations beyond which a slope is not part of the common one


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


def keep_sky_level(
    offset: np.ndarray,
    gain: np.ndarray,
    sky: np.ndarray,
    component: np.ndarray,
    anchor: int | None,
) -> np.ndarray:
    """Shift the offsets of each component so that its median sky level does not change.

    Parameters
    ----------
    offset, gain : ndarray
        ``(T,)`` offsets in ADU, and gains.
    sky : ndarray
        ``(T,)`` sky level in ADU before the correction.
    component : ndarray
        ``(T,)`` int.
    anchor : int or None
        A tile that gets offset 0 instead, in its component.

    Returns
    -------
    ndarray
        ``(T,)`` offsets in ADU.
    """
    components = component.max(initial=-1) + 1
    before, _ = group_medians(component, sky, components)
    after, _ = group_medians(component, gain * sky + offset, components)
    shift = np.nan_to_num(before - after)
    if anchor is not None:
        shift[component[anchor]] = -offset[anchor]
    return offset + shift[component]


def subtract_common_slope(
    component: np.ndarray, planes: np.ndarray, centre: np.ndarray
) -> np.ndarray:
    """Subtract the slope common to the planes of each component.

    No overlap constrains it. It is the mean over the planes near the median slope, because the
    slope of a cloud is not that of the sky.

    Parameters
    ----------
    component : ndarray
        ``(T,)`` int.
    planes : ndarray
        ``(T, 3)``: level at the centre in ADU and both slopes in ADU per cell.
    centre : ndarray
        ``(T, 2)`` in cells.

    Returns
    -------
    ndarray
        ``(T, 3)`` planes, with unchanged differences at all positions.
    """
    slopes = planes[:, 1:]
    deviation = np.abs(slopes - _medians(component, slopes))
    near = (deviation <= FAR_SLOPE * _medians(component, deviation)).all(axis=1)
    count = np.maximum(np.bincount(component, near), 1)
    total = [np.bincount(component, near * slope) for slope in slopes.T]
    common = (np.stack(total, axis=1) / count[:, None])[component]
    level = np.einsum("tg,tg->t", common, centre - _medians(component, centre))
    return planes - np.column_stack([level, common])


def _medians(component: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Compute the medians ``(T, K)`` of each column over the component of each tile."""
    components = component.max(initial=-1) + 1
    medians = [group_medians(component, column, components)[0] for column in columns.T]
    return np.stack(medians, axis=1)[component]
