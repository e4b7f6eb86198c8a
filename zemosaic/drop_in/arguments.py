"""The arguments of ZeMosaic's function, which come from its settings as they were typed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Smallest preview in cells that ZeMosaic may request.
MIN_PREVIEW_SIZE = 128
#: Smallest overlap with `use_auto_intertile`, as a fraction of the smaller tile.
AUTO_MIN_OVERLAP = 0.01
#: A larger `min_overlap_fraction` would leave out every pair.
LARGEST_MIN_OVERLAP = 0.99
#: Limits that ZeMosaic passes if none are set.
GAIN_CLIP, OFFSET_CLIP = (0.90, 1.10), (-2000.0, 2000.0)
#: Arguments without an effect: nobody notices their absence.
_SILENT = frozenset({
    "prune_weight_mode", "gain_prior_lambda", "pair_gain_clip", "pair_offset_abs_max",
    "max_irls_iters", "enforce_requested_solver",
})  # fmt: skip


#: Diagnostics before a solution.
NO_DIAGNOSTICS: dict[str, Any] = {
    "status": "init", "raw_pairs_count": 0, "pruned_pairs_count": 0, "anchor": None,
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """Ranges of gain and offset that ZeMosaic's own solver clips to."""

    gain: tuple[float, float] = GAIN_CLIP
    offset: tuple[float, float] = OFFSET_CLIP


def as_int(value: Any, default: int, least: int = 0) -> int:
    """Return a number, typed in whatever way, as an integer of at least `least`."""
    return max(least, round(as_float(value, default)))


def as_float(value: Any, default: float) -> float:
    """Return a number, typed in whatever way; the default if it is none or not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return number if math.isfinite(number) else default


def as_range(value: Any, default: tuple[float, float]) -> tuple[float, float]:
    """Return the first two of several numbers in increasing order."""
    try:
        first, second = float(value[0]), float(value[1])
    except (TypeError, ValueError, IndexError, KeyError):
        return default
    ordered = min(first, second), max(first, second)
    return ordered if all(map(math.isfinite, ordered)) else default


def as_flag(value: Any) -> bool:
    """Return whether a switch is on; a configuration file may hold it as a word."""
    return value.strip().lower() in ("1", "true", "yes", "on") if isinstance(value, str) else (
        bool(value)
    )  # fmt: skip


def as_weights(weights: Sequence[float] | None, tiles: int) -> np.ndarray | None:
    """Return the weights as ``(T,)`` float64, with 1 in place of unusable ones.

    None if there are none or all are equal, since no tile is to be preferred then.

    Raises
    ------
    ValueError
        They are not one number per tile; the message has the reason.
    """
    if weights is None:
        return None
    try:
        numbers = np.asarray(weights, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise ValueError("the tile weights are not numbers: ignored") from None
    if len(numbers) != tiles:
        raise ValueError(f"{len(numbers)} tile weights for {tiles} tiles: ignored")
    numbers = np.where(np.isfinite(numbers) & (numbers > 0), numbers, 1.0)
    return numbers if np.ptp(numbers) > 0 else None


def workers(value: Any) -> int:
    """Return the number of jobs at once; 0, one per processor, without a number."""
    number = as_float(value, 0.0)
    return 0 if number == 0.0 and str(value).strip() != "0" else max(1, round(number))


def min_overlap(value: Any, auto: Any) -> float:
    """Return the smallest overlap as a fraction of the smaller tile."""
    fraction = min(max(as_float(value, 0.05), 0.0), LARGEST_MIN_OVERLAP)
    return min(fraction, AUTO_MIN_OVERLAP) if as_flag(auto) else fraction


def model(ignored: dict[str, Any]) -> str:
    """Take the switches of ZeMosaic's solvers out of `ignored`; return the model they request."""
    offset_only = as_flag(ignored.pop("offset_only_v1", False))
    with_gain = as_flag(ignored.pop("gain_offset_v2", False))
    return "offset" if offset_only and not with_gain else "auto"


def limits(ignored: dict[str, Any]) -> Limits:
    """Take the limits of ZeMosaic's solver out of `ignored` and return them."""
    gain = as_range(ignored.pop("gain_clip", None), GAIN_CLIP)
    return Limits(gain, as_range(ignored.pop("offset_clip", None), OFFSET_CLIP))


def unknown(ignored: dict[str, Any]) -> list[str]:
    """Return the names of other arguments, which have no effect."""
    return sorted(set(ignored) - _SILENT)
