"""The columns of the normal equations: the terms solved for, and their gauge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .channel import Channel
from .groups import group_medians
from .pair_rows import State, Unknowns
from .spreads import SHARED_CLASS, SURFACE_CLASS, Spreads


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of the normal equations.

    Parameters
    ----------
    active : Unknowns
        Terms solved for.
    index : ndarray
        ``(T, 2 + K)`` int column of log-gain, level and the K other active terms of each tile, of
        its surface and its own bias; N for a term not solved for. Tied tiles share columns.
    owner : ndarray
        ``(N,)`` int tile of each column, the first of several.
    instruments : int
        Number of instruments, each with the active shared terms.
    trends : int
        Number of slopes of the log-gains across the mosaic to solve for: 0 or 2.
    """

    active: Unknowns
    index: np.ndarray
    owner: np.ndarray
    instruments: int
    trends: int

    @classmethod
    def of(cls, channel: Channel, spreads: Spreads) -> Columns:
        """Choose the columns for the classes that have a spread.

        A tile without a measured gain has one under an illumination, of which the levels of the
        tile show the effect in proportion to the gain.
        """
        ties, tiles = channel.ties, np.arange(channel.tiles)
        used = np.zeros(channel.tiles, dtype=bool)
        used[channel.pairs.i] = used[channel.pairs.j] = True
        lit = used & (channel.instruments.labels >= 0) & bool(spreads.log_flat[0] > 0)
        shown = channel.gained & (tiles == ties.gain)
        gain = (shown | _nodes(ties.gain, lit)) & channel.gains_are_free
        level = _nodes(ties.level, used) & channel.offsets_are_free
        active = Unknowns(
            surface=spreads.surface[SURFACE_CLASS] > 0,
            log_flat=spreads.log_flat[SHARED_CLASS] > 0,
            glow=spreads.glow[SHARED_CLASS] > 0,
            own_bias=bool(spreads.own_bias > 0 and spreads.log_flat[0] > 0),
        )
        solved = np.column_stack([gain, level, *[level] * active.of_tile])
        size = np.count_nonzero(solved)
        number = np.full(solved.shape, size)
        number[solved] = np.arange(size)
        index = np.column_stack([number[ties.gain, 0], number[ties.level, 1:]])
        trends = 2 * bool(spreads.trend > 0 and spreads.log_flat[0] > 0)
        return cls(active, index, np.nonzero(solved)[0], len(channel.instruments.names), trends)

    @property
    def size(self) -> int:
        """Number N of columns of the tiles."""
        return len(self.owner)

    @property
    def shared_terms(self) -> int:
        """Number of active shared terms of each instrument."""
        active = self.active
        return int(active.log_flat.sum() + active.glow.sum() + active.log_flat.any())

    @property
    def shared_size(self) -> int:
        """Number S of shared columns: of all instruments, then of the trend."""
        return self.instruments * self.shared_terms + self.trends

    def by_instrument(self, values: np.ndarray) -> np.ndarray:
        """Return the values ``(S,)`` of the shared terms of each instrument ``(Q, n)``."""
        terms = self.shared_terms
        return values[: self.instruments * terms].reshape(self.instruments, terms)

    def of_shared_terms(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the values ``(S,)`` of the active terms of ln F and of the glow, ``(Q, n)``."""
        flats, glows = (
            np.count_nonzero(terms) for terms in (self.active.log_flat, self.active.glow)
        )
        common = self.by_instrument(values)
        return common[:, :flats], common[:, flats : flats + glows]

    def shared_places(self, instruments: Sequence[int]) -> np.ndarray:
        """Return the places ``(s,)`` of the shared columns of some instruments."""
        terms = np.arange(self.shared_terms)
        return np.concatenate([label * len(terms) + terms for label in instruments] or [terms[:0]])

    def cliques(self, channel: Channel) -> np.ndarray:
        """Return the columns ``(P, 2 (2 + K))`` of each pair."""
        return np.concatenate([self.index[channel.pairs.i], self.index[channel.pairs.j]], axis=1)

    def of_kind(self, values: np.ndarray) -> np.ndarray:
        """Return values ``(N,)`` of the columns by tile and term ``(T, 2 + K)``; 0 without one."""
        return np.append(values, 0.0)[self.index]

    def add(self, state: State, own: np.ndarray, shared: np.ndarray) -> State:
        """Add a step ``(N,)`` and ``(S,)`` to a state."""
        step, active = self.of_kind(own), self.active
        surface, log_flat, glow = (
            values.copy() for values in (state.surface, state.log_flat, state.glow)
        )
        surfaces = 2 + np.count_nonzero(active.surface)
        surface[:, active.surface] += step[:, 2:surfaces]
        own_bias = state.own_bias + step[:, surfaces:].sum(axis=1)
        common, (flats, glows) = self.by_instrument(shared), self.of_shared_terms(shared)
        log_flat[:, active.log_flat] += flats
        glow[:, active.glow] += glows
        bias = state.bias + common[:, flats.shape[1] + glows.shape[1] :].sum(axis=1)
        log_gain, level = state.log_gain + step[:, 0], state.level + step[:, 1]
        trend = state.trend.copy()
        trend[: self.trends] += shared[common.size :]
        return State(log_gain, level, surface, log_flat, glow, bias, own_bias, trend)

    def shared_values(self, state: State) -> np.ndarray:
        """Return the values ``(S,)`` of the shared columns."""
        active = self.active
        values = [
            state.log_flat[:, active.log_flat],
            state.glow[:, active.glow],
            state.bias[:, None][:, : int(active.log_flat.any())],
        ]
        return np.concatenate([*np.concatenate(values, axis=1), state.trend[: self.trends]])

    @property
    def has_gain(self) -> np.ndarray:
        """Whether the gain of each tile ``(T,)`` is solved for."""
        return np.asarray(self.index[:, 0] < self.size)

    def clear_inactive(self, state: State) -> State:
        """Return a state in which terms without a column are 0."""
        active = self.active
        return replace(
            state,
            log_gain=np.where(self.has_gain, state.log_gain, 0.0),
            surface=np.where(active.surface, state.surface, 0.0),
            log_flat=np.where(active.log_flat, state.log_flat, 0.0),
            glow=np.where(active.glow, state.glow, 0.0),
            bias=state.bias * active.log_flat.any(),
            own_bias=state.own_bias * active.own_bias,
            trend=state.trend * bool(self.trends),
        )


def _nodes(node: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return the tiles ``(T,)`` that stand for a group with a used tile."""
    chosen = np.zeros(len(node), dtype=bool)
    chosen[node[used]] = True
    return chosen


def counted_tiles(channel: Channel, doubtful: np.ndarray) -> np.ndarray:
    """Return the tiles ``(T,)`` that count for the mean gain of their component."""
    component, gained = channel.gain_component, channel.gained
    sound = np.bincount(component, gained & ~doubtful) > 0
    return gained & ~(doubtful & sound[component])


def centred(channel: Channel, values: np.ndarray, doubtful: np.ndarray) -> np.ndarray:
    """Return values ``(T,)`` relative to the mean of their component.

    The values of doubtful tiles ``(T,)`` and of tiles without a measured gain do not enter the
    mean.
    """
    component = channel.gain_component
    counted = counted_tiles(channel, doubtful)
    count = np.maximum(np.bincount(component, counted), 1)
    mean = np.bincount(component, values * counted) / count
    return np.asarray(values - mean[component])


def set_gauge(
    channel: Channel,
    state: State,
    reference: np.ndarray,
    doubtful: np.ndarray,
    has_gain: np.ndarray,
) -> State:
    """Set the mean gain of each component to 1 and keep its median sky level.

    Doubtful tiles ``(T,)`` do not count, unless there are no others, nor do tiles without a
    measured gain. Those that have none ``(T,)`` keep 1. `reference` ``(T,)`` are the levels of the
    tiles at which `State.level` is given.
    """
    component, joined = channel.component, channel.gain_component
    components, counted = component.max(initial=-1) + 1, counted_tiles(channel, doubtful)
    count = np.maximum(np.bincount(joined, counted), 1)
    mean = np.bincount(joined, state.log_gain * counted) / count
    log_gain = np.where(has_gain, state.log_gain - mean[joined], 0.0)
    factor = np.exp(-mean)[joined]
    level = state.level * factor
    if channel.offsets_are_free:
        corrected = np.exp(log_gain) * (channel.sky - reference) + level
        after, _ = group_medians(component, corrected, components)
        shift = np.nan_to_num(channel.median_sky - after)
        level = level + shift[component]
    return replace(state, log_gain=log_gain, level=level, surface=state.surface * factor[:, None])


def means_of_components(columns: Columns, sound: np.ndarray) -> np.ndarray:
    """Return how often each column ``(N, 2)`` enters the mean log-gain, and the mean level.

    The means are over the sound tiles ``(T,)`` of a component.
    """
    kinds = [np.bincount(columns.index[sound, k], minlength=columns.size + 1) for k in (0, 1)]
    return np.stack(kinds, axis=1)[:-1].astype(float)


def hold_means(
    channel: Channel,
    columns: Columns,
    means: np.ndarray,
    solved: tuple[np.ndarray, np.ndarray],
    sound: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Constrain a step: no mean log-gain or level of a component changes.

    No overlap holds them, but the priors would shrink all gains together, and move all levels
    instead of the bias. Components that tied gains join count as one.

    Parameters
    ----------
    channel : Channel
        Its components.
    columns : Columns
        The N columns of the tiles.
    means : ndarray
        ``(N, 2)`` as from `means_of_components`.
    solved : tuple of ndarray
        ``(N, 3)`` and ``(S, 3)``: the step, and the solutions for `means`.
    sound : ndarray
        ``(T,)`` bool: tiles that count for the means.

    Returns
    -------
    tuple of ndarray
        The step ``(N,)`` and ``(S,)``.
    """
    (own, response), component = np.split(solved[0], [1], axis=1), channel.gain_component
    place, components = component[columns.owner], component.max(initial=-1) + 1

    def totals(values: np.ndarray) -> np.ndarray:
        return np.bincount(place, values, components)

    stiffness = np.array(
        [[totals(means[:, a] * response[:, b]) for b in (0, 1)] for a in (0, 1)]
    ).transpose(2, 0, 1)
    change = np.array([totals(means[:, a] * own[:, 0]) for a in (0, 1)]).T
    solved_for = np.bincount(place, minlength=components) > 0
    multiplier = np.zeros((components, 2))
    multiplier[solved_for] = np.einsum(
        "cab,cb->ca", np.linalg.pinv(stiffness[solved_for], hermitian=True), change[solved_for]
    )
    size = np.maximum(np.bincount(component[sound], minlength=components), 1e-300)
    mean = np.average(multiplier, axis=0, weights=size)
    step = own[:, 0] - (response * multiplier[place]).sum(axis=1)
    return step, solved[1][:, 0] - solved[1][:, 1:] @ mean
