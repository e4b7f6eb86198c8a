"""The sizes of the classes of terms with which a fit begins."""

from __future__ import annotations

import numpy as np

from ..robust import GAUSSIAN_MEDIAN
from .columns import Columns, centred
from .hierarchy_solver import HierarchySolver
from .pair_rows import State
from .scales import BIAS_SPREAD
from .spreads import Spreads
from .surfaces import ORDERS

FIRST_GAIN_SPREAD = 0.1
#: First excess in units of the squared residuals. With less, wrong gains of 1 spoil the levels;
#: with more, planes do not show.
FIRST_EXCESS = 0.25


def first_spreads(solver: HierarchySolver, state: State) -> Spreads:
    """Return sizes from which all classes that the model allows can be found."""
    channel, none = solver.channel, Spreads(0.0, np.zeros(4), np.zeros(3), np.zeros(3))
    columns = Columns.of(channel, none)
    rows = solver.equations.rows(state, columns.active, (0.0, 0.0))
    trusted = channel.pairs.trusted
    squares = np.concatenate(
        [
            (part.residual**2)[:, :-1][
                np.isfinite(part.variance[:, :-1]) & trusted[part.pairs, None]
            ]
            for part in rows
        ]
        or [np.zeros(0)]
    )
    typical = float(np.median(squares)) / GAUSSIAN_MEDIAN**2 if len(squares) else 0.0
    typical = max(typical, solver.scales.patch_var)
    shares = (channel.instruments.labels >= 0).any() and channel.frame is not None
    reach = float(np.square(solver.place * channel.gained[:, None]).mean())
    return none.replace(
        gain=FIRST_GAIN_SPREAD**2,
        gain_excess=solver.gain_excess,
        surface=np.where(np.arange(4) < channel.surface_order, typical, 0.0),
        log_flat=np.full(3, typical / solver.scales.light**2 * shares),
        trend=FIRST_GAIN_SPREAD**2 / max(reach, 1.0) * shares,
        # Light that the model leaves out must not bend the gains before its size is known.
        level_excess=FIRST_EXCESS * typical * (channel.surface_order < ORDERS.max()),
    )


def first_own_bias(solver: HierarchySolver, state: State) -> float:
    """Return the first variance of the tiles' biases: offsets may all be light of the sky."""
    offset = state.level - np.exp(state.log_gain) * solver.reference
    offset = centred(solver.channel, offset, solver.apart)[~solver.apart]
    least = BIAS_SPREAD * solver.scales.light
    return float(offset @ offset) / max(len(offset), 1) + least**2
