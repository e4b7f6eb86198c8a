"""The model of a channel: gains, levels, surfaces, illumination and glow, solved together.

Each round linearizes the equations of the pairs about the last state, weights the pairs robustly,
solves, sets the gauge, and estimates the size of each class of terms again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order

from ..robust import GAUSSIAN_MEDIAN
from .block_system import BlockSystem
from .bordered import Bordered
from .channel import Channel
from .columns import Columns, centred_gains, hold_means, set_gauge
from .initial import initial_state
from .learner import CORRELATED, Learner, settled
from .normal_equations import NormalEquations
from .pair_residuals import MILD_ROUNDS, NARROWING, PairResiduals, RobustWeights
from .pair_rows import PairEquations, Rows, State
from .spreads import SHARED_CLASS, SURFACE_CLASS, Spreads
from .surfaces import ORDERS

ROUNDS = 60  # at most
SEPARATE_ROUNDS = 3  # in which levels hold no information on the gains, nor gains on F
EXCESS_AFTER = 8  # rounds, after which excess variances are estimated
LAST_LEARNING = 45  # round, after which sizes are kept
STEADY = 1e-9  # change of a log-gain in the last round
DIRECT, RENEWAL = 5_000, 5  # columns beyond which the equations are factorized every so many rounds
SAMPLE, SAMPLE_PARTS = 80, 4  # tiles whose own terms are looked at, and connected parts of these
FIRST_GAIN_SPREAD = 0.1
UNEXPLAINED = 1.0  # excess of levels, in their variances, from which on there may be a glow
BIAS_SPREAD = 1.0  # of the sky level: of the bias that is left in it
LOOSE = 10.0  # spreads of the levels: how far a level may move that no pair holds


@dataclass(frozen=True, eq=False)
class Fit:
    """The fitted model.

    Parameters
    ----------
    half_tile : float
        Unit of the places in the surfaces, in cells.
    state : State
        Values of all terms.
    spreads : Spreads
        Sizes of their classes.
    columns : Columns
        The terms that were solved for.
    normal : Bordered
        The factorized normal equations.
    residuals : PairResiduals
        Residuals of the pairs.
    """

    half_tile: float
    state: State
    spreads: Spreads
    columns: Columns
    normal: Bordered
    residuals: PairResiduals


def fit_hierarchy(channel: Channel, reference: np.ndarray) -> Fit:
    """Fit the model of a channel.

    In a large mosaic the sizes of the tiles' own terms are those of a sample of its tiles.

    Parameters
    ----------
    channel : Channel
        Its pairs and tiles.
    reference : ndarray
        ``(T,)`` level of each tile at which its level is solved for.
    """
    state, gain_excess = initial_state(channel, reference)
    state = set_gauge(channel, state, reference)
    sample = sample_pairs(channel)
    part = replace(channel, pairs=channel.pairs.chosen(sample)) if not sample.all() else channel
    survey = _survey(HierarchySolver(part, reference, gain_excess, learns_tiles=True), state)
    if part is channel:
        return survey
    shared = {name: getattr(survey.state, name) for name in ("log_flat", "glow", "bias")}
    solver = HierarchySolver(channel, reference, gain_excess, learns_tiles=False)
    return solver.fit(replace(state, **shared), survey.spreads)


def _survey(solver: HierarchySolver, state: State) -> Fit:
    """Fit with all classes, or, if that has no finite solution, with gains and levels alone.

    A glow, which is nearly an illumination, is tried if the rest leaves much unexplained.
    """
    spreads, none = solver.first_spreads(state), np.zeros(3)
    try:
        fit = solver.fit(state, spreads)
        left = fit.spreads.level_excess
        if left <= UNEXPLAINED * solver.patch_var or not spreads.log_flat.any():
            return fit
        again = fit.spreads.replace(glow=np.full(3, left), level_excess=0.0)
        with_glow = solver.fit(fit.state, again)
        return with_glow if with_glow.spreads.level_excess < left / 2 else fit
    except np.linalg.LinAlgError:
        return solver.fit(state, spreads.replace(surface=none, log_flat=none))


def sample_pairs(channel: Channel) -> np.ndarray:
    """Choose the pairs ``(P,)`` within a few parts of the mosaic, or all of a small one."""
    pairs, tiles = channel.pairs, channel.tiles
    used = np.unique(np.r_[pairs.i, pairs.j])
    if len(used) <= SAMPLE:
        return np.ones(len(pairs.i), dtype=bool)
    graph = coo_array((np.ones(len(pairs.i)), (pairs.i, pairs.j)), shape=(tiles, tiles)).tocsr()
    chosen = np.zeros(tiles, dtype=bool)
    for seed in used[np.linspace(0, len(used) - 1, SAMPLE_PARTS).astype(int)]:
        nearest = breadth_first_order(graph, seed, directed=False, return_predecessors=False)
        chosen[nearest[: SAMPLE // SAMPLE_PARTS]] = True
    return chosen[pairs.i] & chosen[pairs.j]


class HierarchySolver:
    """Solves the model of a channel.

    Parameters
    ----------
    channel : Channel
        Its pairs and tiles.
    reference : ndarray
        ``(T,)`` level of each tile at which its level is solved for.
    gain_excess : float
        Excess variance of the gains of pairs by their own loops.
    learns_tiles : bool
        Whether the sizes of the classes of the tiles' own terms are estimated as well; those of the
        shared terms always are.
    """

    def __init__(
        self, channel: Channel, reference: np.ndarray, gain_excess: float, learns_tiles: bool
    ) -> None:
        self.channel, self.reference, self.learns_tiles = channel, reference, learns_tiles
        self.gain_excess = gain_excess
        self.equations = PairEquations(channel, reference)
        variances = self.equations.level_var[np.isfinite(self.equations.level_var)]
        self.patch_var = float(np.median(variances)) if len(variances) else 1.0
        sky = channel.sky[np.isfinite(channel.sky)]
        self.light = max(abs(float(np.median(sky))), self.patch_var**0.5)
        self.level_prior = (LOOSE * (np.ptp(sky) + self.patch_var**0.5)) ** -2.0
        self.tails = np.ones((channel.tiles, 3))
        self._columns: Columns | None = None
        self._shape = (-1, -1)
        self._system: BlockSystem
        self._normal: Bordered

    def first_spreads(self, state: State) -> Spreads:
        """Return sizes from which all classes that the model allows can be found."""
        none = Spreads(0.0, np.zeros(3), np.zeros(3), np.zeros(3))
        columns = Columns.of(self.channel, none)
        rows = self.equations.rows(state, columns.active, (0.0, 0.0))
        squares = np.concatenate(
            [(part.residual**2)[:, :-1][np.isfinite(part.variance[:, :-1])] for part in rows]
            or [np.zeros(0)]
        )
        typical = float(np.median(squares)) / GAUSSIAN_MEDIAN**2 if len(squares) else 0.0
        typical = max(typical, self.patch_var)
        shares = (self.channel.instruments.labels >= 0).any() and self.channel.frame is not None
        return none.replace(
            gain=FIRST_GAIN_SPREAD**2,
            gain_excess=self.gain_excess,
            surface=np.where(np.arange(3) < self.channel.surface_order, typical, 0.0),
            log_flat=np.full(3, typical / self.light**2 * shares),
            # What the model leaves out must not bend the gains before its size is known.
            level_excess=typical * (self.channel.surface_order < ORDERS.max()),
        )

    def fit(self, state: State, spreads: Spreads) -> Fit:
        """Iterate from a state and sizes until both are steady.

        Raises
        ------
        numpy.linalg.LinAlgError
            The rounds diverge.
        """
        robust, learning = RobustWeights(), True
        for number in range(1, ROUNDS + 1):
            columns = self._layout(spreads)
            state = columns.clear_inactive(state)
            rows = self._rows(state, columns, spreads)
            weights = robust.of_round(number, self._residuals(rows))
            if number <= SEPARATE_ROUNDS:
                _separate(rows)
            step = self._step(number, columns, rows, weights, state, spreads)
            last, state = state, set_gauge(self.channel, columns.add(state, *step), self.reference)
            change = float(np.abs(state.log_gain - last.log_gain).max(initial=0.0))
            if not np.isfinite(change):
                raise np.linalg.LinAlgError("the rounds diverge")
            if not learning:
                if change < STEADY:
                    break
            elif number > SEPARATE_ROUNDS:
                learner = Learner(columns, state, self._normal, self.tails, number)
                sizes, spreads = spreads, self._learn(learner, spreads, rows, weights)
                learning = number <= MILD_ROUNDS + NARROWING or not settled(sizes, spreads)
                learning &= number < LAST_LEARNING
        # Of suspects the excess of all others is no excuse.
        own = spreads.replace(level_excess=0.0)
        residuals = self._residuals(self._rows(state, columns, own))
        return Fit(self.equations.half_tile, state, spreads, columns, self._normal, residuals)

    def _residuals(self, rows: Sequence[Rows]) -> PairResiduals:
        return PairResiduals.of(rows, len(self.equations.has_gain))

    def _step(
        self,
        number: int,
        columns: Columns,
        rows: Sequence[Rows],
        weights: np.ndarray,
        state: State,
        spreads: Spreads,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the step to the solution of the equations of a round.

        The factor of an earlier round solves a large system nearly as well.
        """
        priors, shape = self._priors(columns, spreads), (columns.size, columns.shared_terms)
        renewed = columns.size <= DIRECT or number <= MILD_ROUNDS or number % RENEWAL == 0
        renewed |= shape != self._shape
        equations = NormalEquations(columns, self._system, rows, weights, with_matrix=renewed)
        if renewed:
            self._normal, self._shape = equations.factorize(*priors), shape
        step = self._normal.solve(*self._right(columns, equations, state, *priors))
        return hold_means(self.channel, columns, self._normal, *step)

    def _learn(
        self, learner: Learner, spreads: Spreads, rows: Sequence[Rows], weights: np.ndarray
    ) -> Spreads:
        """Estimate the sizes again."""
        spreads = learner.shared(spreads)
        if self.learns_tiles:
            spreads = learner.of_tiles(spreads, centred_gains(self.channel, learner.state))
        else:
            learner.set_tails(spreads)
        if self.learns_tiles and learner.number > EXCESS_AFTER:
            spreads = learner.level_excess(spreads, rows, weights)
        return spreads

    def _layout(self, spreads: Spreads) -> Columns:
        """Return the columns for the classes that have a size, and set the system's structure."""
        columns, last = Columns.of(self.channel, spreads), self._columns
        if last is None or columns.index.shape != last.index.shape:
            frame, tiles = self.channel.frame, self.channel.tiles
            position = np.column_stack([np.arange(tiles), np.zeros(tiles)])
            if frame is not None:
                position = np.nan_to_num(frame.centre)
            self._system = BlockSystem(columns.owner, columns.cliques(self.channel), position)
        self._columns = columns
        return columns

    def _rows(self, state: State, columns: Columns, spreads: Spreads) -> list[Rows]:
        excess = CORRELATED * spreads.level_excess, spreads.gain_excess
        return list(self.equations.rows(state, columns.active, excess))

    def _priors(self, columns: Columns, spreads: Spreads) -> tuple[np.ndarray, np.ndarray]:
        """Return the inverse variances of the prior, ``(N,)`` and ``(S,)``."""
        kinds = SURFACE_CLASS[columns.active.surface]
        inverse = np.zeros(columns.index.shape)
        inverse[:, 0] = 1 / spreads.gain if spreads.gain > 0 else 0.0
        inverse[:, 1] = self.level_prior
        inverse[:, 2:] = self.tails[:, kinds] / spreads.surface[kinds]
        prior = np.zeros(columns.size + 1)
        prior[columns.index] = inverse
        flat, glow = SHARED_CLASS[columns.active.log_flat], SHARED_CLASS[columns.active.glow]
        bias = np.full(int(columns.active.log_flat.any()), (BIAS_SPREAD * self.light) ** -2.0)
        shared = np.concatenate([1 / spreads.log_flat[flat], 1 / spreads.glow[glow], bias])
        return prior[:-1], np.tile(shared, columns.instruments)

    def _right(
        self,
        columns: Columns,
        equations: NormalEquations,
        state: State,
        prior: np.ndarray,
        shared_prior: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the right-hand sides ``(N,)`` and ``(S,)``; the prior of a level is its value."""
        values = np.zeros(columns.size + 1)
        of_tiles = np.column_stack(
            [
                centred_gains(self.channel, state),
                np.zeros(len(state.level)),
                state.surface[:, columns.active.surface],
            ]
        )
        values[columns.index] = of_tiles
        return (
            equations.right[:-1] - prior * values[:-1],
            equations.shared_right - shared_prior * columns.shared_values(state),
        )


def _separate(rows: Sequence[Rows]) -> None:
    """Let levels hold no information on the gains, and gains none on the illumination."""
    for part in rows:
        part.own[:, :-1, [0, part.own.shape[2] // 2]] = 0.0
        part.shared[:, -1] = 0.0
