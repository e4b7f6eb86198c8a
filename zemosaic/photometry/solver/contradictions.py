"""The search for tiles that contradict all others, before the whole model is fitted again."""

from __future__ import annotations

import numpy as np

from .columns import Columns
from .hierarchy_solver import HierarchySolver
from .learner import settled
from .pair_residuals import PairResiduals
from .pair_rows import Rows, State
from .spreads import Spreads
from .suspects import suspect_limit, worst_tiles

#: Most times a tile is found worst: one that joins others cannot be left out.
MOST_BLAMES = 2
PLANE_ROUNDS = 24  # at most, with planes alone
EXTREME_TAIL = 0.1  # weight of a surface below which it is extreme


def contradicted_tiles(solver: HierarchySolver, residuals: PairResiduals) -> np.ndarray:
    """Find the tiles ``(T,)`` of which several pairs contradict the others.

    Of an extreme surface one pair is enough.
    """
    pairs, chi = solver.channel.pairs, np.where(solver.doubted, 0.0, residuals.chi)
    bad = chi > suspect_limit(residuals.chi)
    count = np.bincount(np.r_[pairs.i[bad], pairs.j[bad]], minlength=solver.channel.tiles)
    return np.asarray(count > np.where(solver.tails[:, 0] < EXTREME_TAIL, 0, 1))


def find_doubtful(solver: HierarchySolver, state: State, spreads: Spreads) -> State:
    """Leave out the tiles that contradict all others, and return a state for the others.

    Surfaces are planes, gains come from contrast alone, and illumination and glow keep the values
    of the state: curvature, levels and shared terms would take up part of the faults of a tile. A
    bad tile makes its neighbours look bad, so the worst are left out first, and a neighbour that
    was left out before is tried again.
    """
    pairs, tried_again = solver.channel.pairs, solver.misplaced
    blames = np.zeros(solver.channel.tiles, dtype=int)
    solver.doubt(solver.misplaced)
    while True:
        state, residuals = _fit_planes(solver, state, spreads)
        chi = np.where(solver.doubted, 0.0, residuals.chi)
        extreme = solver.tails[:, 0] < EXTREME_TAIL
        worst = worst_tiles(solver.channel, chi, suspect_limit(residuals.chi), extreme)
        worst &= blames < MOST_BLAMES
        if not worst.any():
            break
        blames += worst
        beside = np.zeros_like(worst)
        beside[pairs.i[worst[pairs.j]]] = beside[pairs.j[worst[pairs.i]]] = True
        again = solver.doubtful & beside & ~tried_again
        tried_again = tried_again | again
        solver.doubt(worst | solver.doubtful & ~again)
    return state


def _fit_planes(
    solver: HierarchySolver, state: State, spreads: Spreads
) -> tuple[State, PairResiduals]:
    """Fit gains, levels and planes until their sizes are steady."""
    robust, none = solver.robust_weights(), np.zeros(3)
    spreads = spreads.replace(
        surface=spreads.surface * (np.arange(4) < 1), log_flat=none, level_excess=0.0
    )
    gain_var = np.zeros(solver.channel.tiles)
    for number in range(1, PLANE_ROUNDS + 1):
        columns = solver.layout(spreads)
        rows = _separated_rows(solver, state, columns, spreads, gain_var)
        weights = solver.weights(robust, number, rows)
        state = solver.next_state(columns, rows, weights, state, spreads)
        gain_var = columns.of_kind(solver.normal.variance(solver.prior_means(columns)))[:, 0]
        sizes, spreads = spreads, solver.learn(number, state, spreads, rows, weights, kept=True)
        if number > robust.rounds and settled(sizes, spreads):
            break
    return state, solver.residuals(_separated_rows(solver, state, columns, spreads, gain_var))


def _separated_rows(
    solver: HierarchySolver, state: State, columns: Columns, spreads: Spreads, gain_var: np.ndarray
) -> list[Rows]:
    """Return equations in which levels allow for the errors of gains, with no say on them.

    `gain_var` ``(T,)`` are the variances of the log-gains.
    """
    rows, pairs = solver.rows(state, columns, spreads), solver.channel.pairs
    for part in rows:
        levers = part.derivatives.first_lever, part.derivatives.second_lever
        for lever, tile in zip(levers, (pairs.i[part.pairs], pairs.j[part.pairs]), strict=True):
            part.variance[:, :-1] += lever**2 * gain_var[tile, None]
    solver.separate(rows, everywhere=True)
    return rows
