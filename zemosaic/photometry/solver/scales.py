"""The scales of a channel: the noise of its levels, its light, and how far levels may move."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .channel import Channel
from .channel_pairs import DISTRUST

BIAS_SPREAD = 0.1  # of the sky level: of the bias that is left in it
USUAL_SKY_SCATTER = 0.05  # of the sky level, from tile to tile
ENOUGH = 20_000  # pairs for a median
LOOSE = 10.0  # spreads of the levels: how far a level held by no pair may move


class Scales(NamedTuple):
    """The scales of a channel, in its level units.

    Parameters
    ----------
    patch_var : float
        Typical variance of a level in a patch.
    light : float
        Typical level of the sky.
    level_prior, bias_prior : float
        Inverse variances of the priors of a level and of a bias.
    usual_bias : float
        Variance of the tiles' biases in a usual night.
    """

    patch_var: float
    light: float
    level_prior: float
    bias_prior: float
    usual_bias: float

    @classmethod
    def of(cls, channel: Channel, level_var: np.ndarray, log_gain: np.ndarray) -> Scales:
        """Return the scales for variances ``(P, 16)`` of patches and log-gains ``(T,)``."""
        pairs = channel.pairs
        some = slice(None, None, 1 + len(pairs.i) // ENOUGH)
        unit = np.exp(log_gain[pairs.i[some]] + log_gain[pairs.j[some]])
        variances = unit[:, None] * level_var[some]
        variances = variances[np.isfinite(variances) & pairs.trusted[some, None]]
        patch_var = float(np.median(variances)) if len(variances) else 1.0
        sky = channel.sky[np.isfinite(channel.sky)]
        light = max(abs(float(np.median(sky))), patch_var**0.5)
        # Untrusted pairs hold levels too, if nothing else does.
        loose = LOOSE if pairs.trusted.all() else LOOSE * DISTRUST
        level_prior = (loose * (np.ptp(sky) + patch_var**0.5)) ** -2.0
        priors = level_prior, (BIAS_SPREAD * light) ** -2.0
        return cls(patch_var, light, *priors, (USUAL_SKY_SCATTER * light) ** 2)
