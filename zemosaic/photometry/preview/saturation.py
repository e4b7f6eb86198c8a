"""Detection of pixels that are cut off at the highest value of their channel."""

from __future__ import annotations

import numpy as np

#: Pixels at exactly the highest value: saturation has at least so many, noise has one.
MIN_SATURATED = 10
#: Ratio of the pixels at the highest value to those at the next lower one.
MIN_SPIKE = 4


def drop_saturated(strip: np.ndarray, highest: np.ndarray) -> None:
    """Set pixels to NaN in all channels if they are saturated in one; change both arguments.

    Saturated pixels are independent of the gain, and two tiles that have many of them appear to
    share a scene. Saturation shows as a spike in the histogram: the highest value of an
    unsaturated channel occurs once, or, if it is quantized, hardly more often than the next one.

    Parameters
    ----------
    strip : ndarray
        ``(C, h, W)`` float32 in ADU, a strip of a tile.
    highest : ndarray
        ``(C,)`` highest finite values of the strips above; updated with those of this one.
    """
    saturated = None
    for index, channel in enumerate(strip):
        peak = _finite_max(channel)
        if peak < highest[index]:
            continue  # saturation reaches the highest value of the tile
        highest[index] = peak
        at_peak = channel == peak
        if _is_spike(channel, peak, int(np.count_nonzero(at_peak))):
            saturated = at_peak if saturated is None else saturated | at_peak
    if saturated is not None:
        strip[:, saturated] = np.nan


def _finite_max(channel: np.ndarray) -> np.floating:
    """Return the highest finite value; -inf if there is none."""
    peak = channel.max()  # usually finite, and ten times as fast
    if np.isfinite(peak):
        return peak
    return np.max(channel, initial=-np.inf, where=np.isfinite(channel))


def _is_spike(channel: np.ndarray, peak: np.floating, count: int) -> bool:
    """Return whether `count` pixels at the highest value are too many for an unsaturated sky."""
    if count < MIN_SATURATED or not np.isfinite(peak):
        return False
    next_lower = np.max(channel, initial=-np.inf, where=channel < peak)
    if not np.isfinite(next_lower):
        return False
    return bool(count > MIN_SPIKE * np.count_nonzero(channel == next_lower))
