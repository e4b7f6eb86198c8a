"""The typical sizes of each class of terms, estimated by restricted maximum likelihood.

Terms of a class are drawn from a normal distribution about 0. Its variance maximizes the
likelihood of the data with the terms integrated out (Patterson and Thompson 1971, Biometrika 58,
545), by Fisher's scoring. Where the data show no terms of a class its variance goes to 0, and the
terms with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._kernels.lattice import AREAS as PATCHES
from ..illumination import TERMS
from .channel_pairs import ALIKE
from .surfaces import ORDERS

SURFACE_CLASS = ORDERS - 1
#: Classes of the shared terms by degree: 1 and 2, 3 and 4, and all above. The first belong together
#: because a vignetting is not quite centred on the detector.
SHARED_CLASS = np.searchsorted([2, 4], TERMS.sum(axis=1))
#: The same for evidence. Slopes, of kind -1, do not count: a chance trend of the gains would be
#: one of the illumination.
CURVATURE_CLASS = np.where(TERMS.sum(axis=1) == 1, -1, SHARED_CLASS)
SLOPES, CUBICS = (TERMS.sum(axis=1) == degree for degree in (1, 3))
#: Variance of the slopes relative to their class, at least: they come from a vignetting whose
#: centre is a little off the detector's. To overlaps of unturned tiles, they are a trend of gains
#: or levels across the mosaic.
SLOPE_SHARE = 0.1
USUAL_GAIN = 0.08  # log-gain of a usual tile
#: Standard deviation of the logarithm of a usual variance, where overlaps do not show it.
USUAL_DOUBT = 2.5
#: First step of an excess, in units of a typical variance: with a large one classes that have not
#: settled would hide.
FIRST_STEP = 0.125
EXCESS_DAMPING = 0.4  # part of a step of an excess variance: robust weights follow it
NEGLIGIBLE = 1e-2  # of a typical variance: smaller excess is none
LARGEST_STEP = 10.0  # factor by which a variance changes at most in a round
#: Size of the higher two orders in units of the lower, above which surfaces are made of structure
#: smaller than a tile.
ROUGH = 0.5
#: Mean square over a tile of the terms of each order, in units of their variance.
MEAN_SQUARE = np.array([2 / 3, 13 / 45, 0.105, 0.035])
HEAVY_TAILS = 10.0  # degrees of freedom of the surfaces: single tiles have far larger gradients
#: Standard errors, under the hypothesis of none, below which a class has no spread.
LEAST_EVIDENCE = 2.0
#: Of a trend of the gains: it is rarer than a vignetting off its centre.
LEAST_TREND_EVIDENCE = 5.0


@dataclass(frozen=True, eq=False)
class Spreads:
    """Variances of each class of terms; a class of variance 0 is left out.

    Parameters
    ----------
    gain : float
        Of the logarithms of the gains, about their trend.
    surface : ndarray
        ``(4,)`` of the surfaces' terms of each order, in level units².
    log_flat, glow : ndarray
        ``(3,)`` of ln F, and of the glow in level units².
    cubic : float
        Of the terms of ln F of third degree alone.
    level_excess, gain_excess : float
        Added to the variances of levels in patches, and, times their concentration, of gains.
    level_factor : float
        On the variances of levels in patches.
    own_bias : float
        Of the tiles' biases about that of their instrument, in level units².
    trend : float
        Of the slopes of the log-gains across the mosaic, a half tile.
    """

    gain: float
    surface: np.ndarray
    log_flat: np.ndarray
    glow: np.ndarray
    cubic: float = 0.0
    level_excess: float = 0.0
    gain_excess: float = 0.0
    level_factor: float = 1.0
    own_bias: float = 0.0
    trend: float = 0.0

    @property
    def is_rough(self) -> bool:
        """Whether the surfaces are made of structure smaller than a tile, as of a flat."""
        return bool(self.surface[2:].max() > ROUGH**2 * self.surface[:2].max())

    @property
    def order(self) -> int:
        """Highest order of the surfaces; 0 without any."""
        return int(self.surface.nonzero()[0].max(initial=-1)) + 1

    @property
    def scatter(self) -> float:
        """Excess of the levels, plus the excess equivalent to the surfaces."""
        return float(MEAN_SQUARE @ self.surface) / (ALIKE * PATCHES) + self.level_excess

    @property
    def of_log_flat(self) -> np.ndarray:
        """Variances ``(M,)`` of the terms of ln F.

        The slopes of a flat's residual are as large as its other terms that are odd.
        """
        slope = max(SLOPE_SHARE * float(self.log_flat[0]), self.cubic)
        return np.where(SLOPES, slope, self.log_flat[SHARED_CLASS])

    @property
    def of_glow(self) -> np.ndarray:
        """Variances ``(M,)`` of the terms of the glow, in level units²."""
        return np.where(SLOPES, SLOPE_SHARE, 1.0) * self.glow[SHARED_CLASS]

    def without_surfaces(self) -> Spreads:
        """Return spreads with an excess of levels in place of surfaces."""
        return replace(self, surface=np.zeros_like(self.surface), level_excess=self.scatter)

    def in_adu(self, unit: float) -> Spreads:
        """Convert variances of levels from units of `unit` ADU."""
        names = ("surface", "glow", "level_excess", "own_bias")
        return replace(self, **{name: unit**2 * getattr(self, name) for name in names})

    def replace(self, **changes: Any) -> Spreads:
        """Return spreads with some of them changed."""
        return replace(self, **changes)


def scored_variance(
    variance: float,
    squares: np.ndarray,
    errors: np.ndarray,
    weights: np.ndarray | float = 1.0,
    usual: float | None = None,
    least: float = LEAST_EVIDENCE,
) -> tuple[float, bool]:
    """Take one step of Fisher's scoring for the variance of a class.

    Parameters
    ----------
    variance : float
        The present one.
    squares, errors : ndarray
        ``(n,)`` squares of the terms, and their posterior variances.
    weights : ndarray or float
        Factors on the inverse variance of single terms.
    usual : float or None
        The variance in most mosaics; `USUAL_DOUBT` says how much the data may differ from it.

    least : float
        Standard errors, under the hypothesis of none, from which on terms are evident.

    Returns
    -------
    variance : float
        The next one.
    evident : bool
        Whether the data show terms of this class.
    """
    determined = np.clip(1 - weights * errors / variance, 1e-6, 1 - 1e-6)
    score = float((weights * squares / variance - determined).sum())
    information = float(np.square(determined).sum())
    if usual is not None:
        prior = 2 / USUAL_DOUBT**2
        # One more is the mean, not the mode, if the data show the variance: its logarithm has a
        # normal error.
        score += min(information / prior, 1.0) + prior * float(np.log(usual / variance))
        information += prior
    step = float(np.clip(1 + score / information, 1 / LARGEST_STEP, LARGEST_STEP))
    changed = variance * step
    # Inverse variances of the terms by the data alone, relative to the class.
    known = determined / (1 - determined) * step
    evident = bool(np.square(known).sum() > 2 * least**2)
    return changed, evident


def scored_excess(
    excess: float,
    factor: np.ndarray,
    squares: np.ndarray,
    variance: np.ndarray,
    leverage: np.ndarray,
    least: float,
) -> float:
    """Take one step of Fisher's scoring for a variance added to the variances of rows.

    Parameters
    ----------
    excess : float
        The present one.
    factor : ndarray
        ``(R,)`` by which it is multiplied in each row.
    squares, variance : ndarray
        ``(R,)`` squared residuals, and variances with the excess.
    leverage : ndarray
        ``(R,)`` part of the variance that the fit takes up.
    least : float
        A typical variance, which limits the step from 0.
    """
    free = np.clip(1 - leverage, 1e-3, 1.0)
    score = float((factor * (squares / variance - free) / variance).sum())
    information = float(np.square(factor * free / variance).sum())
    if not information > 0:
        return excess
    change = EXCESS_DAMPING * score / information
    wanted = excess + change
    changed = float(np.clip(wanted, excess / 3, 3 * excess + FIRST_STEP * least))
    # The present one counts too: a step down from one that is too large is no evidence of none.
    evident = max(wanted, excess) ** 2 * information > 2 * LEAST_EVIDENCE**2
    return changed if evident and changed > NEGLIGIBLE * least else 0.0


def tail_weights(squares: np.ndarray, variance: float) -> np.ndarray:
    """Return the weights ``(T,)`` of Student's distribution for terms ``(T, n)`` of each tile."""
    terms = squares.shape[1]
    return (HEAVY_TAILS + terms) / (HEAVY_TAILS + squares.sum(axis=1) / variance)
