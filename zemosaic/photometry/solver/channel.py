"""One channel of a mosaic: its tiles, its measured pairs, and the model to fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..illumination import Instruments
from .channel_pairs import ChannelPairs, MeasuredPairs
from .dissection import Dissection, coupled_nodes, dissect, graph_positions
from .groups import group_medians
from .ties import Ties

LARGEST_SMALL = 12  # tiles of a small mosaic; of more, no tile has a part in most pairs
FEWEST_SHARING = 4  # tiles in pairs, of an instrument that may have an illumination


@dataclass(frozen=True, eq=False)
class TileFrame:
    """Positions of the tiles on the shared grid; needed to fit surfaces and illumination.

    Parameters
    ----------
    centre : ndarray
        ``(T, 2)`` float64: centre of each tile in cells of the grid.
    jacobian : ndarray
        ``(T, 2, 2)`` float64: change of the grid position (cells) with the tile's pixel x, y.
    shape : ndarray
        ``(T, 2)`` int height and width of each tile in pixels.
    """

    centre: np.ndarray
    jacobian: np.ndarray
    shape: np.ndarray


@dataclass(frozen=True, eq=False)
class Channel:
    """One channel of a mosaic, ready to be solved.

    Levels are in units of the smallest error of a pair (``pairs.unit``), so the solution does not
    depend on the unit of the tiles.

    Parameters
    ----------
    sky : ndarray
        ``(T,)`` sky level of each tile; NaN for an unreadable tile.
    measured : ndarray
        Bool over all pairs of the mosaic: true with a measurement in this channel.
    pairs : ChannelPairs
        The measured pairs, P of them.
    model : str
        One of `zemosaic.settings.MODELS`.
    anchor : int or None
        The tile that keeps gain 1 and offset 0 in its component.
    frame : TileFrame or None
        Without it there are no surfaces and no illumination.
    ties : Ties
        Groups of tiles sharing a gain or a level.
    instruments : Instruments
        Tiles sharing an illumination.
    """

    sky: np.ndarray
    measured: np.ndarray
    pairs: ChannelPairs
    model: str
    anchor: int | None
    frame: TileFrame | None
    ties: Ties
    instruments: Instruments

    @classmethod
    def of(
        cls,
        i: np.ndarray,
        j: np.ndarray,
        measurements: MeasuredPairs,
        repetition: np.ndarray,
        *,
        sky: np.ndarray,
        model: str,
        anchor: int | None,
        frame: TileFrame | None,
        ties: Ties | None = None,
        instruments: Instruments | None = None,
        different: np.ndarray | None = None,
    ) -> Channel:
        """Collect the measurements of all pairs ``(i, j)``; see `solve`."""
        finite = measurements.finite()
        measured = finite.measured
        pairs = ChannelPairs.of(
            np.asarray(i)[measured], np.asarray(j)[measured], finite.rows, repetition[measured]
        )
        if different is not None:
            pairs = pairs.distrust(different[measured])
        ties = ties or Ties.none(len(sky))
        used = pairs.tiles
        instruments = (instruments or Instruments.none(len(sky))).of_many(used, FEWEST_SHARING)
        return cls(sky / pairs.unit, measured, pairs, model, anchor, frame, ties, instruments)

    @property
    def tiles(self) -> int:
        """Number of tiles T."""
        return len(self.sky)

    def part(self, pairs: np.ndarray) -> tuple[Channel, np.ndarray]:
        """Return a channel of some pairs ``(P,)`` and their tiles alone, and the n tiles' indices.

        It cannot be solved for its own sake: it has no anchor.
        """
        chosen = self.pairs.chosen(pairs)
        kept = np.zeros(self.tiles, dtype=bool)
        kept[chosen.tiles] = True
        while not kept[tied := self.ties.node[kept]].all():
            kept[tied] = True
        tiles, number = np.flatnonzero(kept), np.cumsum(kept) - 1
        frame = self.frame and TileFrame(*(values[tiles] for values in vars(self.frame).values()))
        part = replace(
            self,
            sky=self.sky[tiles],
            pairs=replace(chosen, i=number[chosen.i], j=number[chosen.j]),
            anchor=None,
            frame=frame,
            ties=Ties(number[self.ties.gain[tiles]], number[self.ties.level[tiles]]),
            instruments=replace(self.instruments, labels=self.instruments.labels[tiles]),
        )
        return part, tiles

    @cached_property
    def is_small(self) -> bool:
        """Whether a single tile may have a part in most pairs."""
        return len(self.pairs.tiles) <= LARGEST_SMALL

    @cached_property
    def position(self) -> np.ndarray:
        """Positions ``(T, 2)`` by which the graph of the tiles can be divided."""
        if self.frame is not None:
            return np.nan_to_num(self.frame.centre)
        return graph_positions(np.stack([self.pairs.i, self.pairs.j], axis=1), self.tiles)

    @cached_property
    def dissection(self) -> Dissection:
        """Order in which the tiles, or the first of those tied, are eliminated."""
        ends = self.ties.node[np.stack([self.pairs.i, self.pairs.j], axis=1)]
        return dissect(coupled_nodes(ends.reshape(len(ends), 4), self.tiles), self.position)

    @cached_property
    def component(self) -> np.ndarray:
        """Label ``(T,)`` of the component of each tile, joined by measured pairs or its level."""
        return self.ties.level_components(self.pairs.i, self.pairs.j)

    @cached_property
    def gain_component(self) -> np.ndarray:
        """Label ``(T,)`` of the components that tied gains join."""
        first = np.unique(self.component, return_index=True)[1]
        return self.ties.gain_components(np.arange(self.tiles), first[self.component])

    @cached_property
    def median_sky(self) -> np.ndarray:
        """Median sky level of each component; NaN for one with a NaN."""
        components = self.component.max(initial=-1) + 1
        return group_medians(self.component, self.sky, components)[0]

    @cached_property
    def gain_group(self) -> np.ndarray:
        """Label ``(T,)`` the tiles joined by pairs with a measured gain, or tied."""
        if not self.gains_are_free:
            return self.component
        measured = np.isfinite(self.pairs.gain) & np.isfinite(self.pairs.gain_err)
        return self.ties.gain_components(self.pairs.i[measured], self.pairs.j[measured])

    @cached_property
    def gained(self) -> np.ndarray:
        """Whether each tile ``(T,)`` has a gain: any pair of its gain group shows one.

        Levels alone show none that can be relied on.
        """
        measured = np.isfinite(self.pairs.gain) & np.isfinite(self.pairs.gain_err)
        shown = np.zeros(self.tiles, dtype=bool)
        shown[self.ties.gain[np.r_[self.pairs.i[measured], self.pairs.j[measured]]]] = True
        return shown[self.ties.gain] & self.gains_are_free

    @property
    def gains_are_free(self) -> bool:
        """Whether the model has gains other than 1."""
        return not self.model.startswith("offset")

    @property
    def mixed_gains(self) -> np.ndarray:
        """Whether each tile ``(T,)`` shares its level with tiles of other gains."""
        return self.ties.mixed_gains & self.gains_are_free

    @property
    def offsets_are_free(self) -> bool:
        """Whether the model has offsets other than 0."""
        return self.model != "gain"

    @property
    def surface_order(self) -> int:
        """Largest order of the surfaces that the model allows."""
        if self.frame is None or not self.offsets_are_free:
            return 0
        orders = {"auto": 4, "gain+surface": 4, "gain+plane": 1, "offset+plane": 1}
        return orders.get(self.model, 0)


def spread(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Spread float values of the chosen entries over an array of all, with NaN elsewhere.

    Parameters
    ----------
    values : ndarray
        ``(n,)`` float64.
    chosen : ndarray
        ``(N,)`` bool with n true entries.

    Returns
    -------
    ndarray
        ``(N,)`` float64.
    """
    complete = np.full(len(chosen), np.nan)
    complete[chosen] = values
    return complete
