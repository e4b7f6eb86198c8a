"""The rounds in which the model of a channel is solved.

Each linearizes the equations of the pairs about the last state, weights the pairs robustly, solves,
sets the gauge, and estimates the size of each class of terms again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..overlap.graph import loose_ends
from .block_system import BlockSystem
from .bordered import Bordered
from .channel import Channel
from .columns import Columns, centred, hold_means, means_of_components, set_gauge
from .extrapolation import Extrapolation
from .fit import Fit
from .initial import tiles_in_other_unit
from .learner import Learner, settled
from .normal_equations import NormalEquations
from .pair_residuals import PairResiduals, RobustWeights
from .pair_rows import PairEquations, Rows, State
from .priors import Priors
from .robust_lsq import LEAST_WEIGHT
from .scales import Scales
from .spreads import SURFACE_CLASS, Spreads
from .suspects import doubtful_tiles

ROUNDS = 60  # at most
SEPARATE_ROUNDS = 3  # at most, in which levels hold no information on the gains, nor gains on F
# Rounds in which no class is left out, because the others have not settled; in large mosaics the
# highest order of surfaces makes them long.
KEPT_ROUNDS, HIGHEST_KEPT_ROUNDS = 8, 5
DAMPED_AFTER, SLOWER = 12, 10  # rounds, after which variances change by ever smaller steps
EXCESS_AFTER = 8  # rounds, after which excess variances are estimated
MOST_DROPS = 3  # of the excess of levels for lack of evidence, after which it stays out
LAST_LEARNING = 45  # round, after which sizes are kept
STEADY = 1e-9  # change of a log-gain in the last round
#: Rms step of the last round in units of the errors, where many terms make rounds long and one tile
#: may change for ever.
STEADY_ON_AVERAGE, MANY_TERMS = 1e-2, 3_000
MOST_GROWTH = 100.0  # of a log-gain, beyond which the rounds diverge
FEWER = 1, 3  # mild rounds, and rounds in which weights narrow, if sizes are known


class HierarchySolver:
    """Solves the model of a channel.

    Parameters
    ----------
    channel : Channel
        Its pairs and tiles.
    reference : ndarray
        ``(T,)`` level of each tile at which its level is solved for.
    log_gain : ndarray
        ``(T,)`` first log-gains.
    gain_excess : float
        Largest excess variance of the gains of pairs, by their own loops.
    misplaced : ndarray
        ``(T,)`` bool: tiles that lie elsewhere than their WCS says.
    learns_tiles : bool
        Whether the sizes of the classes of the tiles' own terms are estimated as well; those of the
        shared terms always are.
    """

    def __init__(
        self,
        channel: Channel,
        reference: np.ndarray,
        log_gain: np.ndarray,
        gain_excess: float,
        misplaced: np.ndarray,
        learns_tiles: bool,
    ) -> None:
        self.channel, self.reference, self.learns_tiles = channel, reference, learns_tiles
        self.log_gain, self.gain_excess, self.misplaced = log_gain, gain_excess, misplaced
        self.equations = PairEquations(channel, reference)
        self.scales = Scales.of(channel, self.equations.level_var, log_gain)
        level, pairs = channel.ties.level, channel.pairs
        self.loose = loose_ends(channel.tiles, level[pairs.i], level[pairs.j])
        self.tails = np.ones((channel.tiles, 4))
        self.in_other_unit = tiles_in_other_unit(channel, log_gain)
        self.doubt(misplaced)
        self._drops = 0
        self._columns: Columns | None = None
        self._system: BlockSystem
        self._normal: Bordered | None = None
        self.step: float

    def of_pairs(self, chosen: np.ndarray) -> HierarchySolver:
        """Return a solver for some of the pairs, by a boolean array ``(P,)``, with these tails."""
        part = replace(self.channel, pairs=self.channel.pairs.chosen(chosen))
        given = self.reference, self.log_gain, self.gain_excess, self.misplaced
        solver = HierarchySolver(part, *given, learns_tiles=self.learns_tiles)
        solver.tails = self.tails.copy()
        return solver

    def fit(self, state: State, spreads: Spreads, growth: float = MOST_GROWTH) -> Fit:
        """Iterate from a state and sizes until both are steady.

        Parameters
        ----------
        state : State
            The first one.
        spreads : Spreads
            The first sizes.
        growth : float
            By which a log-gain may exceed the first ones in any round.

        Raises
        ------
        numpy.linalg.LinAlgError
            The rounds diverge.
        """
        robust, extrapolation, learning = self.robust_weights(), Extrapolation(), True
        self._drops, separated = 0, min(SEPARATE_ROUNDS, robust.mild)
        spreads = spreads.replace(gain_excess=min(spreads.gain_excess, self.gain_excess))
        for number in range(1, ROUNDS + 1):
            columns = self.layout(spreads)
            state = columns.clear_inactive(state)
            rows = self.rows(state, columns, spreads)
            weights = self.weights(robust, number, rows)
            if not learning:
                weights = extrapolation.of_round(weights)
            self.separate(rows, everywhere=number <= separated)
            last, state = state, self.next_state(columns, rows, weights, state, spreads)
            self._check_growth(state, growth)
            if number <= separated:
                continue
            if learning:
                sizes, spreads = spreads, self.learn(number, state, spreads, rows, weights)
                learning = number <= robust.rounds or not settled(sizes, spreads)
                learning &= number < LAST_LEARNING
            elif self._is_steady(last, state):
                break
        # The excess of all pairs excuses no suspect.
        rows = self.rows(state, columns, spreads.replace(level_excess=0.0))
        normal, self._normal = self.normal, None  # no later round shall replace it
        return Fit(
            self.equations.half_tile, state, spreads, columns, normal, rows,
            self.residuals(rows), self.doubtful, self.apart,
        )  # fmt: skip

    def robust_weights(self) -> RobustWeights:
        """Return the weights of the pairs, before the first round.

        If sizes are known no class hides behind another, and fewer rounds will do.
        """
        return RobustWeights() if self.learns_tiles else RobustWeights(*FEWER)

    def _is_steady(self, last: State, state: State) -> bool:
        """Return whether the last round has hardly changed the state."""
        assert self._columns is not None
        if self._columns.size > MANY_TERMS and self.step <= STEADY_ON_AVERAGE:
            return True
        return bool(np.abs(state.log_gain - last.log_gain).max(initial=0.0) < STEADY)

    def weights(self, robust: RobustWeights, number: int, rows: Sequence[Rows]) -> np.ndarray:
        """Return the weights ``(P,)`` of the pairs in a round."""
        residuals = self.residuals(rows)
        # Once it had no weight, nothing would bring the only pair of a tile back.
        residuals.level_chi[self.loose] = 0.0
        return np.where(self.doubted, LEAST_WEIGHT, robust.of_round(number, residuals))

    def next_state(
        self,
        columns: Columns,
        rows: Sequence[Rows],
        weights: np.ndarray,
        state: State,
        spreads: Spreads,
    ) -> State:
        """Solve the equations of a round, and return the state after it.

        Set the rms of the step in units of its errors: the squares of independent combinations of
        all terms sum to the product of step and right-hand side.
        """
        priors = self.priors(columns, spreads)
        equations = NormalEquations(columns, self._system, rows, weights)
        self._normal = equations.factorize(priors, self._normal)
        own_pull, shared_pull = priors.pull(*self.prior_values(columns, state))
        right, shared = equations.right[:-1] + own_pull, equations.shared_right + shared_pull
        means = means_of_components(columns, ~self.apart)
        sides = np.column_stack([shared, np.zeros((len(shared), 2))])
        solved = self.normal.solve(np.column_stack([right, means]), sides)
        step = hold_means(self.channel, columns, means, solved, ~self.apart)
        squares = right @ step[0] + shared @ step[1]
        self.step = float(np.sqrt(max(squares, 0.0) / max(columns.size, 1)))
        state = columns.add(state, *step)
        self._check_growth(state, MOST_GROWTH)  # the gauge takes exponentials
        return set_gauge(self.channel, state, self.reference, self.apart, columns.has_gain)

    def _check_growth(self, state: State, growth: float) -> None:
        """Raise `LinAlgError` if a log-gain exceeds the first one by more than `growth`."""
        if not (np.abs(state.log_gain) < np.abs(self.log_gain) + growth).all():
            raise np.linalg.LinAlgError("the rounds diverge")

    @property
    def normal(self) -> Bordered:
        """The factorized normal equations of the last round."""
        assert self._normal is not None
        return self._normal

    def doubt(self, tiles: np.ndarray) -> None:
        """Leave the pairs of some tiles ``(T,)`` nearly without weight."""
        pairs = self.channel.pairs
        self.doubtful = doubtful_tiles(self.channel, tiles)
        self.doubted = self.doubtful[pairs.i] | self.doubtful[pairs.j]
        self.apart = self.doubtful | self.in_other_unit
        position = self.channel.position[self.channel.ties.gain] / self.equations.half_tile
        self.place = np.stack([centred(self.channel, axis, self.apart) for axis in position.T], 1)

    def separate(self, rows: Sequence[Rows], everywhere: bool) -> None:
        """Let levels not inform on gains, nor gains on F: everywhere, or of doubtful tiles."""
        for part in rows:
            chosen = slice(None) if everywhere else np.flatnonzero(self.doubted[part.pairs])
            part.separate(chosen)

    def residuals(self, rows: Sequence[Rows]) -> PairResiduals:
        """Return the residuals of all pairs."""
        return PairResiduals.of(rows, len(self.equations.has_gain))

    def learn(
        self,
        number: int,
        state: State,
        spreads: Spreads,
        rows: Sequence[Rows],
        weights: np.ndarray,
        kept: bool = False,
    ) -> Spreads:
        """Estimate the sizes again from the state after a round; some are `kept` above 0."""
        assert self._columns is not None
        learner = Learner(
            self._columns, state, self.normal, self.prior_means(self._columns), self.tails,
            ~self.apart,
            usual_bias=self.scales.usual_bias,
            damping=SLOWER / (SLOWER + max(number - DAMPED_AFTER, 0)),
            drops=number > KEPT_ROUNDS and not kept,
            drops_highest=number > HIGHEST_KEPT_ROUNDS and not kept,
        )  # fmt: skip
        spreads = learner.shared(spreads)
        if not self.learns_tiles:
            learner.set_tails(spreads)
            return spreads
        spreads = learner.of_tiles(spreads, self.own_gains(state))
        if kept or number <= EXCESS_AFTER:
            return spreads
        before = spreads.level_excess
        spreads = learner.excess(spreads, rows, weights, self.channel.pairs)
        if self._drops >= MOST_DROPS:
            return spreads.replace(level_excess=0.0)
        self._drops += before > 0 and not spreads.level_excess
        return spreads

    def layout(self, spreads: Spreads) -> Columns:
        """Return the columns for the classes that have a size, and set the system's structure."""
        columns, last = Columns.of(self.channel, spreads), self._columns
        if last is None or not np.array_equal(columns.index, last.index):
            cliques = columns.cliques(self.channel)
            self._system = BlockSystem(columns.owner, cliques, self.channel.dissection)
        self._columns = columns
        return columns

    def rows(self, state: State, columns: Columns, spreads: Spreads) -> list[Rows]:
        """Return the equations about a state, with the excess variances."""
        excess = spreads.level_excess, spreads.gain_excess
        return list(self.equations.rows(state, columns.active, excess, spreads.level_factor))

    def priors(self, columns: Columns, spreads: Spreads) -> Priors:
        """Return the priors of all terms for the sizes of their classes."""
        kinds = SURFACE_CLASS[columns.active.surface]
        inverse = np.zeros(columns.index.shape)
        # The gain of such a tile still comes from its pairs.
        inverse[:, 0] = np.where(self.apart, LEAST_WEIGHT, 1.0) / spreads.gain
        inverse[:, 1] = self.scales.level_prior
        surfaces = slice(2, 2 + len(kinds))
        inverse[:, surfaces] = self.tails[:, kinds] / spreads.surface[kinds]
        inverse[self.doubtful, surfaces] = 1 / spreads.surface[kinds]
        inverse[:, 2 + len(kinds) :] = 1 / (spreads.own_bias or np.inf)
        prior = np.zeros(columns.size + 1)
        prior[columns.index] = inverse
        bias = np.full(int(columns.active.log_flat.any()), self.scales.bias_prior)
        flat = 1 / spreads.of_log_flat[columns.active.log_flat]
        glow = 1 / spreads.of_glow[columns.active.glow]
        shared = np.tile(np.concatenate([flat, glow, bias]), columns.instruments)
        trend = np.full(columns.trends, 1 / (spreads.trend or np.inf))
        return Priors(prior[:-1], np.concatenate([shared, trend]), self.prior_means(columns))

    def prior_means(self, columns: Columns) -> np.ndarray:
        """Return the derivatives ``(N, 0 or 2)`` of the priors' means by the trend."""
        means = np.zeros((columns.size + 1, 2))
        means[columns.index[:, 0]] = self.place
        return means[:-1, : columns.trends]

    def own_gains(self, state: State) -> np.ndarray:
        """Return the log-gains ``(T,)`` minus the mean of their component and their trend."""
        return centred(self.channel, state.log_gain - self.place @ state.trend, self.apart)

    def prior_values(self, columns: Columns, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Return all terms ``(N,)`` and ``(S,)`` minus their means; 0 for levels."""
        values = np.zeros(columns.size + 1)
        values[columns.index] = np.column_stack(
            [
                self.own_gains(state),
                np.zeros(len(state.level)),
                state.surface[:, columns.active.surface],
                state.own_bias[:, None][:, : int(columns.active.own_bias)],
            ]
        )
        return values[:-1], columns.shared_values(state)
