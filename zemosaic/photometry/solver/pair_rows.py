"""The equations of the pairs, linearized about a state of the model.

Of a pair, each patch with mean levels x and y and the gain a state that the corrected tiles agree::

    T_i = (g_i (x - x0_i - A(q_i)) + l_i - b_i) / F(q_i) + b_i + P_i(p)      T_j - T_i = 0
    log g_i - log g_j + Σ c (log F(q_j) - log F(q_i)) = log a

with the gains g, the levels l at the reference levels x0, the surfaces P at the position p on the
sky, and the illumination F and the glow A of the instrument at the position q on the detector. F
acts on light alone, not on the bias b of a tile: one that the data of its instrument have, minus
the light by which its sky is brighter than that of others. Where both light and F change
across a patch, T_i has the term ``-g_i cov(x, log F(q_i)) / F(q_i)`` as well. The contrast c of the
patches says where the gain of the pair was measured.

The derivatives by log F and log g are taken at the likeliest level, the mean of T_i and T_j. At
each tile's own level, noise and structure of a tile would be in both the residual and its
derivative, and smaller gains, or a larger F, would make all residuals smaller (errors in variables;
Fuller 1987, Measurement Error Models). Between tiles that are not turned against each other, a
slope of log F then has the effect of a trend of the gains, as it should.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .. import _kernels
from .._kernels.pair_derivatives import Derivatives, TileTerms
from .channel import Channel
from .pair_ends import Lit, PairEnd, even_light
from .patch_bases import SMOOTH, PatchBases

CHUNK = 4096  # pairs linearized at once
LEAST_GAIN_ERROR = 1e-6  # relative: the precision of float32 previews
LEAST_LEVEL_ERROR = 1e-3  # in units of the smallest error: reached by tiles without noise


@dataclass(frozen=True, eq=False)
class State:
    """Values of all terms of the model, in units of the channel.

    Parameters
    ----------
    log_gain, level : ndarray
        ``(T,)``.
    surface : ndarray
        ``(T, K)`` coefficients of `surface_basis`.
    log_flat, glow : ndarray
        ``(Q, M)`` coefficients of ln F and of the glow of each instrument.
    bias : ndarray
        ``(Q,)`` level not due to light, of each instrument.
    own_bias : ndarray
        ``(T,)`` by which that of a tile differs.
    trend : ndarray
        ``(2,)`` slopes of the log-gains across the mosaic, about which they scatter, a half tile.
    """

    log_gain: np.ndarray
    level: np.ndarray
    surface: np.ndarray
    log_flat: np.ndarray
    glow: np.ndarray
    bias: np.ndarray
    own_bias: np.ndarray
    trend: np.ndarray

    def biases(self, labels: np.ndarray) -> np.ndarray:
        """Return the levels ``(T,)`` not due to light of tiles of these instruments ``(T,)``."""
        return np.asarray(np.append(self.bias, 0.0)[labels] + self.own_bias)


@dataclass(frozen=True, eq=False)
class Unknowns:
    """The terms solved for, besides gains and levels.

    Other terms of surfaces are 0; those of F and glow keep the values of a state.

    Parameters
    ----------
    surface : ndarray
        ``(14,)`` bool: terms of all surfaces.
    log_flat, glow : ndarray
        ``(M,)`` bool: terms of all instruments. With a term of ln F there is a bias.
    own_bias : bool
        Whether biases of the tiles differ.
    """

    surface: np.ndarray
    log_flat: np.ndarray
    glow: np.ndarray
    own_bias: bool

    @property
    def of_tile(self) -> int:
        """Number of terms of a tile besides gain and level."""
        return int(np.count_nonzero(self.surface)) + self.own_bias


@dataclass(frozen=True, eq=False)
class Rows:
    """Linearized equations of n pairs with the same instruments.

    Rows are 16 patches and the gain; columns are log-gain, level, surface and own bias of tile i,
    then of tile j, and ln F, glow and bias of the first instrument, then, if it is another, of the
    second.

    Parameters
    ----------
    pairs : ndarray
        ``(n,)`` int.
    derivatives : Derivatives
        By the own terms of both tiles.
    shared : ndarray
        ``(n, 17, S)`` derivatives by the shared terms.
    residual : ndarray
        ``(n, 17)`` measured minus modelled.
    variance : ndarray
        ``(n, 17)``; infinite without a measurement.
    instruments : tuple of int
        One or two; none without shared columns.
    """

    pairs: np.ndarray
    derivatives: Derivatives
    shared: np.ndarray
    residual: np.ndarray
    variance: np.ndarray
    instruments: tuple[int, ...]

    @property
    def own(self) -> np.ndarray:
        """Derivatives ``(n, 17, 2 (2 + K))`` by the own terms."""
        return self.derivatives.matrix()

    def separate(self, chosen: np.ndarray | slice) -> None:
        """Let the levels of some pairs not inform on gains, nor their gains on F."""
        self.derivatives.first_lever[chosen] = self.derivatives.second_lever[chosen] = 0.0
        self.shared[chosen, -1] = 0.0


class PairEquations:
    """The equations of all pairs of a channel.

    Parameters
    ----------
    channel : Channel
        Its pairs, tiles and instruments.
    reference : ndarray
        ``(T,)`` level of each tile at which its level is solved for.
    """

    def __init__(self, channel: Channel, reference: np.ndarray) -> None:
        pairs = channel.pairs
        self.channel, self.reference = channel, reference
        measured = np.isfinite(pairs.gain) & np.isfinite(pairs.gain_err) & channel.gains_are_free
        self.has_gain = measured
        self.log_ratio = np.log(np.where(measured, pairs.gain, 1.0))
        error = np.maximum(pairs.gain_err / np.where(measured, pairs.gain, 1.0), LEAST_GAIN_ERROR)
        self.gain_var = np.where(measured, error**2, np.inf)
        self.level_var = pairs.level_var / pairs.slope[:, None]
        if not channel.offsets_are_free:
            self.level_var = np.full_like(self.level_var, np.inf)
        self._counted_var = np.maximum(self.level_var, LEAST_LEVEL_ERROR**2)
        labels = channel.instruments.labels
        self._parts = list(_parts(np.stack([labels[pairs.i], labels[pairs.j]], axis=1)))
        self._bases = PatchBases(channel)
        self.half_tile = self._bases.half_tile

    def rows(
        self,
        state: State,
        active: Unknowns,
        excess: tuple[float, float],
        level_factor: float = 1.0,
    ) -> Iterator[Rows]:
        """Yield all equations, linearized about a state.

        Parameters
        ----------
        state : State
            The values of all terms.
        active : Unknowns
            Terms solved for.
        excess : tuple of float
            Variances added to levels, more where patches or pairs are alike, and to gains in
            proportion to their concentration.
        level_factor : float
            On the variances of the levels.
        """
        terms = TileTerms(
            np.exp(state.log_gain), self.reference, state.level,
            state.biases(self.channel.instruments.labels),
            np.ascontiguousarray(state.surface[:, active.surface]),
        )  # fmt: skip
        for chosen, instruments in self._parts:
            given = state, terms, active, excess, level_factor
            yield self._linearize(chosen, instruments, *given)

    def _linearize(
        self,
        chosen: np.ndarray,
        instruments: np.ndarray,
        state: State,
        terms: TileTerms,
        active: Unknowns,
        excess: tuple[float, float],
        level_factor: float,
    ) -> Rows:
        """Linearize some pairs of tiles of these two instruments."""
        pairs, run = self.channel.pairs, _run(chosen)
        ends = [
            self._end(chosen, tile, levels[run], label, state, terms, active)
            for tile, levels, label in zip(
                (pairs.i, pairs.j), (pairs.x_level, pairs.y_level), instruments, strict=True
            )
        ]
        contrast = pairs.contrast[run]
        residual, variance = np.empty((2, len(chosen), pairs.x_level.shape[1] + 1))
        np.subtract(ends[0].value, ends[1].value, out=residual[:, :-1])
        residual[:, -1] = self.log_ratio[run] - (ends[0].log_gain - ends[1].log_gain)
        if (instruments >= 0).any() and state.log_flat.any():
            log_flat = ends[1].lit.log_flat - ends[0].lit.log_flat
            residual[:, -1] -= np.einsum("np,np->n", contrast, log_flat)
        # In the mean unit of both tiles, so swapping them changes nothing.
        unit = level_factor * np.exp(ends[0].log_gain + ends[1].log_gain)[:, None]
        np.multiply(unit, self._counted_var[run], out=variance[:, :-1])
        if excess[0]:
            variance[:, :-1] += excess[0] * pairs.alike[run, None]
        variance[:, -1] = self.gain_var[run] + excess[1] * pairs.concentration[run]
        # After correction the noise of photons has a variance in proportion to the gain.
        share = 1 / (1 + np.exp(ends[1].log_gain - ends[0].log_gain))[:, None]
        distances = share * residual[:, :-1], (share - 1) * residual[:, :-1]
        shared = [
            end.shared(sign, contrast, distance)
            for end, sign, distance in zip(ends, (-1, 1), distances, strict=True)
        ]
        labels = [int(label) for label in instruments if label >= 0]
        if len(labels) == 2 and labels[0] == labels[1]:
            shared, labels = [shared[0] + shared[1]], labels[:1]
        derivatives = Derivatives(
            *(end.lever - distance for end, distance in zip(ends, distances, strict=True)),
            *(end.lit.by_level for end in ends), *(end.surface for end in ends),
        )  # fmt: skip
        return Rows(
            chosen, derivatives, np.concatenate(shared, axis=2), residual, variance, tuple(labels)
        )

    def _end(
        self,
        chosen: np.ndarray,
        of_pairs: np.ndarray,
        level: np.ndarray,
        instrument: int,
        state: State,
        terms: TileTerms,
        active: Unknowns,
    ) -> PairEnd:
        """Return one tile of some pairs, with its levels ``(n, 16)`` in their patches.

        `chosen` ``(n,)`` are the pairs, and `of_pairs` ``(P,)`` the tile of every pair.
        """
        tile, surface = of_pairs[chosen], np.zeros((0, *level.shape))
        if active.surface.any():
            surface = self._bases.surface(chosen, of_pairs, active.surface)
        lit = self._lit(chosen, of_pairs, instrument, state, active)
        lever, light, value = _kernels.tile_levels(
            tile, level, terms, surface, lit.glow, lit.by_level
        )
        if state.log_flat.any():
            # The mean of light divided by F is not the quotient of their means.
            uneven = terms.gain[tile][:, None] * lit.by_level * lit.tilt
            lever, light, value = lever - uneven, light - uneven, value - uneven
        if active.own_bias:
            surface = np.concatenate([surface, 1 - lit.by_level[None]])
        return PairEnd(
            log_gain=state.log_gain[tile],
            value=value,
            lever=lever,
            surface=surface,
            by_shared=lit.derivatives(light, terms.gain[tile]),
            lit=lit,
        )

    def _lit(
        self,
        chosen: np.ndarray,
        of_pairs: np.ndarray,
        instrument: int,
        state: State,
        active: Unknowns,
    ) -> Lit:
        """Return the effect of the instrument on the levels of these tiles."""
        flat, glow = active.log_flat, active.glow
        shared = flat.any() or glow.any() or state.log_flat.any() or state.glow.any()
        if instrument < 0 or not shared:
            return even_light(len(chosen))
        basis = self._bases.detector(chosen, of_pairs)
        log_flat = basis @ state.log_flat[instrument]
        tilt = self._bases.tilt(chosen, of_pairs)
        return Lit(
            log_flat=log_flat,
            by_level=np.exp(-log_flat),
            glow=basis @ state.glow[instrument],
            tilt=tilt @ state.log_flat[instrument, SMOOTH],
            flat_basis=basis[..., flat],
            glow_basis=basis[..., glow],
            tilt_basis=tilt[..., flat[SMOOTH]],
        )


def _run(chosen: np.ndarray) -> np.ndarray | slice:
    """Return ascending indices ``(n,)`` as a slice, which copies nothing, if none is missing."""
    first, last = int(chosen[0]), int(chosen[-1])
    return slice(first, last + 1) if last - first < len(chosen) else chosen


def _parts(instruments: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs ``(n,)`` of the same instruments ``(2,)``, by those ``(P, 2)`` of all pairs."""
    key = instruments[:, 0] * (instruments.max(initial=0) + 2) + instruments[:, 1]
    _, first, kind = np.unique(key, return_index=True, return_inverse=True)
    for number, both in enumerate(instruments[first]):
        members = np.flatnonzero(kind == number)
        for start in range(0, len(members), CHUNK):
            yield members[start : start + CHUNK], both
