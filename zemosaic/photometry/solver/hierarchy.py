"""The model of a channel: gains, levels, surfaces, illumination and glow, solved together.

In a large mosaic the sizes of the classes come from a sample of it. Tiles that contradict all
others are left out, and then the rest is solved again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from operator import itemgetter

import numpy as np
from scipy.sparse.csgraph import breadth_first_order

from ..overlap.graph import csgraph_array
from .alternatives import FEWEST_LEFT, with_glow, with_own_biases, without_chance
from .channel import Channel
from .columns import set_gauge
from .contradictions import contradicted_tiles, find_doubtful
from .evidence import deviance
from .first_sizes import first_spreads
from .fit import Fit
from .hierarchy_solver import MOST_GROWTH, HierarchySolver
from .initial import gain_excess, initial_state
from .pair_rows import State
from .spreads import Spreads

SAMPLE, SAMPLE_PARTS = 80, 4  # tiles that give the sizes of own terms, and connected parts of these
SAMPLE_PAIRS = 400  # of them, at most: five a tile
REACH = 4  # steps from tile to tile: as far as a tile that contradicts all others spoils them
CLEAR = 50.0  # least difference of the deviances without a bad tile and without any other
#: The same if the other tiles need no simpler model, and the least difference to the deviance with
#: all tiles.
CLEARER = 150.0, 500.0
MOST_SCATTER = 2.0  # scatter of the levels without a bad tile, in units of that with it
FAR = 3.0  # of a log-gain from those of the pairs: a factor of 20


def fit_hierarchy(channel: Channel, reference: np.ndarray, misplaced: np.ndarray) -> Fit:
    """Fit the model of a channel.

    In a large mosaic the sizes of the tiles' own terms come from a sample of its tiles.

    Parameters
    ----------
    channel : Channel
        Its pairs and tiles.
    reference : ndarray
        ``(T,)`` level of each tile at which its level is solved for.
    misplaced : ndarray
        ``(T,)`` bool: tiles that lie elsewhere than their WCS says.
    """
    state, excess = initial_state(channel, reference)
    state = set_gauge(channel, state, reference, misplaced, channel.gained)
    given = reference, state.log_gain, excess, misplaced
    sample = sample_pairs(channel)
    if sample.all():
        return _survey(HierarchySolver(channel, *given, learns_tiles=True), state)
    part, tiles = channel.part(sample)
    first = _of_tiles(state, tiles)
    given_part = reference[tiles], first.log_gain, excess, misplaced[tiles]
    survey = _survey(HierarchySolver(part, *given_part, learns_tiles=True), first)
    own_bias = np.zeros(channel.tiles)
    own_bias[tiles] = survey.state.own_bias
    shared = replace(survey.state, own_bias=own_bias)
    solver = HierarchySolver(channel, *given, learns_tiles=False)

    def fit(start: State) -> Fit:
        return solver.fit(_with_shared(start, shared), survey.spreads)

    return _fit_sound(solver, state, survey.spreads, fit)


def _of_tiles(state: State, tiles: np.ndarray) -> State:
    """Return the state of some tiles ``(n,)``."""
    names = "log_gain", "level", "surface", "own_bias"
    return replace(state, **{name: getattr(state, name)[tiles] for name in names})


def _with_shared(state: State, other: State) -> State:
    """Return a state with the illumination, the glow, the biases and the trend of another one."""
    names = "log_flat", "glow", "bias", "own_bias", "trend"
    return replace(state, **{name: getattr(other, name) for name in names})


def _survey(solver: HierarchySolver, state: State) -> Fit:
    """Fit with all classes; if that diverges, without surfaces, and at last without F as well.

    Biases of the tiles and a glow are tried as well. An excess of the levels takes the place of
    omitted surfaces. Where levels drive a gain far from the gains of the pairs, tiles have
    structure that no surface describes; if they do so in any case, contradictory pairs have given
    these gains.
    """
    spreads = first_spreads(solver, state)
    structure = spreads.without_surfaces()
    even = structure.replace(log_flat=np.zeros(3))

    def fit_from(first: Spreads, start: State, growth: float) -> Fit:
        fit = solver.fit(start, first, growth)
        if first.log_flat.any():
            fit = with_own_biases(solver, with_glow(solver, fit, first), first)
            fit = without_chance(solver, fit)
        if fit.spreads.is_rough:
            fit = solver.fit(fit.state, fit.spreads.without_surfaces(), growth)
        return fit

    def fit_all(start: State) -> Fit:
        tails = solver.tails
        for first in (spreads, structure):
            solver.tails = tails.copy()  # rounds that diverge spoil them
            with suppress(np.linalg.LinAlgError):
                return fit_from(first, start, FAR)
        solver.tails = tails
        return solver.fit(start, even, FAR)

    def fit_anyhow(start: State) -> Fit:
        with suppress(np.linalg.LinAlgError):
            return fit_from(spreads, start, MOST_GROWTH)
        return solver.fit(start, even)

    try:
        fit = _fit_sound(solver, state, spreads, fit_all)
    except np.linalg.LinAlgError:
        fit = _fit_sound(solver, state, spreads, fit_anyhow)
    return _leave_out_in_turn(solver, state, fit, fit_all)


def _leave_out_in_turn(
    solver: HierarchySolver, state: State, fit: Fit, fit_all: Callable[[State], Fit]
) -> Fit:
    """Fit a small mosaic again without the tile that spoils it, if there is one, then the next.

    A tile with a part in most pairs contradicts no others: surfaces of all tiles, or wild gains,
    describe its faults. The measurements are far likelier without it than without any other tile.
    """
    channel = solver.channel
    used, tiles = channel.pairs.tiles, np.arange(channel.tiles)
    if channel.frame is None or not channel.is_small or len(used) <= FEWEST_LEFT:
        return fit
    solver.doubt(fit.doubtful)  # a later search may have failed
    least = deviance(solver, fit)
    while may_hide_faults(fit.spreads):
        left = np.setdiff1d(used, np.flatnonzero(fit.doubtful))
        trials = []
        for tile in left if len(left) > FEWEST_LEFT else ():
            _leave_out(solver, fit.doubtful | (tiles == tile))
            solver.tails = np.ones_like(solver.tails)
            if solver.doubtful[tile]:
                with suppress(np.linalg.LinAlgError):
                    trial = fit_all(state)
                    trials.append((deviance(solver, trial), trial))
        trials.sort(key=itemgetter(0))
        if len(trials) < 2:
            break
        (first, again), (second, _), *_ = trials
        if not spoils(second - first, least - first, again.spreads, fit.spreads):
            break
        least, fit = first, again
    return fit


def spoils(beside: float, before: float, again: Spreads, fit: Spreads) -> bool:
    """Whether a tile spoils a fit, by the sizes without it and with it.

    Parameters
    ----------
    beside, before : float
        Deviances without any other tile, and with all of them, minus the deviance without it.
    again, fit : Spreads
        Sizes without it, and with it.
    """
    if again.scatter > MOST_SCATTER * fit.scatter:
        return False
    if is_simpler(again, fit):
        return beside >= CLEAR and before >= 0
    return beside >= CLEARER[0] and before >= CLEARER[1]


def may_hide_faults(found: Spreads) -> bool:
    """Whether more than planes describes the levels of the tiles, and perhaps the faults of one."""
    return bool(
        found.surface[1:].any() or found.glow.any() or found.own_bias or found.level_excess > 0
    )


def is_simpler(again: Spreads, before: Spreads) -> bool:
    """Whether a second fit needs no excess of the levels, or surfaces of lower order, than before.

    Planes may take the place of an excess. Higher orders may not: they describe structure of few
    tiles as well.
    """
    order, highest = (spreads.order for spreads in (again, before))
    if (again.level_excess > 0) == (before.level_excess > 0):
        return order < highest
    return before.level_excess > 0 and order <= max(highest, 1)


def _leave_out(solver: HierarchySolver, tiles: np.ndarray) -> None:
    """Leave out some tiles ``(T,)``, and estimate how the gains of all other pairs scatter."""
    solver.doubt(tiles)
    sound = solver.channel.pairs.chosen(~solver.doubted)
    solver.gain_excess = gain_excess(replace(solver.channel, pairs=sound))


def _fit_sound(
    solver: HierarchySolver, state: State, spreads: Spreads, fit_all: Callable[[State], Fit]
) -> Fit:
    """Fit from a state, and again without the tiles that contradict all others, if any.

    In a large mosaic these are looked for near the pairs that contradict others.
    """
    fit, channel = fit_all(state), solver.channel
    contradicted = contradicted_tiles(solver, fit.residuals)
    if not contradicted.any():
        return fit
    near = _pairs_near(channel, contradicted)
    search = solver if near.all() else solver.of_pairs(near)
    try:
        found = find_doubtful(search, _with_shared(state, fit.state), spreads)
    except np.linalg.LinAlgError:  # planes do not describe these tiles
        return fit
    if not search.doubted.any():
        return fit
    _leave_out(solver, search.doubtful)
    if not (solver.doubtful & ~solver.misplaced).any():
        return fit
    try:
        return fit_all(found if search is solver else state)
    except np.linalg.LinAlgError:
        return fit


def _pairs_near(channel: Channel, chosen: np.ndarray) -> np.ndarray:
    """Return the pairs ``(P,)`` within `REACH` steps of some tiles ``(T,)``; all of few tiles."""
    i, j = channel.pairs.i, channel.pairs.j
    if len(channel.pairs.tiles) <= SAMPLE:
        return np.ones(len(i), dtype=bool)
    near = chosen.copy()
    for _ in range(REACH):
        before = near.copy()
        near[i[before[j]]] = near[j[before[i]]] = True
    return near[i] & near[j]


def sample_pairs(channel: Channel) -> np.ndarray:
    """Choose the pairs ``(P,)`` within a few parts of the mosaic, or all of a small one."""
    pairs, tiles = channel.pairs, channel.tiles
    used = channel.pairs.tiles
    if len(used) <= SAMPLE:
        return np.ones(len(pairs.i), dtype=bool)
    graph = csgraph_array(np.ones(len(pairs.i)), pairs.i, pairs.j, tiles)
    chosen = np.zeros(tiles, dtype=bool)
    for seed in used[np.linspace(0, len(used) - 1, SAMPLE_PARTS).astype(int)]:
        nearest = breadth_first_order(graph, seed, directed=False, return_predecessors=False)
        chosen[nearest[: SAMPLE // SAMPLE_PARTS]] = True
    sample = np.flatnonzero(chosen[pairs.i] & chosen[pairs.j])
    if len(sample) > SAMPLE_PAIRS:
        sample = sample[np.linspace(0, len(sample) - 1, SAMPLE_PAIRS).astype(int)]
    return np.bincount(sample, minlength=len(pairs.i)) > 0
