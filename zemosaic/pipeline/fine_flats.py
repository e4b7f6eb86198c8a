"""The fine structure of the illumination of instruments with many tiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

import numpy as np

from ..photometry.cosine_series import CosineSeries
from ..photometry.fine_flat.corrected_blocks import CorrectedBlocks
from ..photometry.fine_flat.differences import Differences
from ..photometry.fine_flat.fit import fit_fine_flat, shows_fine_flat
from ..photometry.fine_flat.lattice import Lattice
from ..photometry.fine_flat.removal import without_fine_flat
from ..photometry.illumination import TERMS, Illumination, Instruments
from ..photometry.preview.preview import SIDE, Preview
from ..photometry.solver.channel import TileFrame
from ..photometry.solver.channel_pairs import MeasuredPairs
from ..photometry.solver.solve import Solution
from .records import PairRecord
from .run_context import RunContext

FEWEST_TILES = 50  # of an instrument; the noise of fewer is a structure of its own
FIRST_BLOCKS = 25_000  # of neighbouring overlaps that are compared at first
MOST_PAIRS = 600  # of all overlaps that are compared if these show a structure
KEPT_TILES = 256  # with corrected blocks in memory

FineFlats = Mapping[int, CosineSeries]


@dataclass(frozen=True, eq=False)
class FineFlatSearch:
    """The search for fine structure in what a solution leaves in the overlaps.

    Parameters
    ----------
    context : RunContext
        The run, with the previews.
    records : sequence of PairRecord
        All pairs.
    frame : TileFrame
        Positions of the tiles.
    instruments : Instruments
        The instruments of the tiles.
    """

    context: RunContext
    records: Sequence[PairRecord]
    frame: TileFrame
    instruments: Instruments

    def suspected(self, solved: Solution) -> list[int]:
        """Return the numbers of the instruments of which some overlaps show a structure."""
        return [
            number
            for number in range(len(self.instruments.names))
            if (found := self._differences(solved, number, few=True)) and shows_fine_flat(*found)
        ]

    def fit(self, solved: Solution, numbers: Iterable[int]) -> FineFlats:
        """Return the structure of ln F of instruments, by their numbers."""
        return {
            number: fine
            for number in numbers
            if (found := self._differences(solved, number))
            and (fine := fit_fine_flat(*found)) is not None
        }

    def _differences(
        self, solved: Solution, number: int, few: bool = False
    ) -> tuple[Differences, Lattice] | None:
        """Return what is left in some overlaps of an instrument; None if it has too few tiles.

        Suspect tiles are left out.
        """
        sound = np.isfinite(solved.gain).all(axis=1) & ~solved.suspect.any(axis=1)
        own = sound & (self.instruments.labels == number)
        pairs = [
            (record.i, record.j)
            for record in self.records
            if record.outcome == "measured" and own[record.i] and own[record.j]
        ]
        if np.count_nonzero(own) < FEWEST_TILES or not pairs:
            return None
        height, width = self.frame.shape[pairs[0][0]].tolist()
        area = abs(np.linalg.det(self.frame.jacobian[pairs[0][0]]))  # of a pixel, in cells
        block = SIDE / np.sqrt(area)
        side = Lattice.blocks_between_nodes((height, width), block)

        @lru_cache(KEPT_TILES)
        def blocks(index: int) -> CorrectedBlocks:
            previews = self.context.previews
            preview = Preview.load(previews.here(previews.preview(index)))
            return CorrectedBlocks.of(preview, solved.correction(index), (height, width), side)

        if few:  # from the middle of the mosaic
            middle = len(pairs) // 2
            differences = Differences.of(
                chain(pairs[middle:], pairs[:middle]), blocks, FIRST_BLOCKS
            )
        else:
            chosen = np.unique(np.linspace(0, len(pairs) - 1, MOST_PAIRS).astype(int)).tolist()
            differences = Differences.of((pairs[index] for index in chosen), blocks)
        if differences is None:
            return None
        return differences, Lattice.of((height, width), side * block)

    def removed(
        self, measured: Sequence[MeasuredPairs], fine: FineFlats, solved: Solution
    ) -> list[MeasuredPairs]:
        """Return the measured pairs of each channel as if no tile had a fine structure.

        The level without light of each tile is that of a solution.
        """
        i, j = np.array([(r.i, r.j) for r in self.records], dtype=int).reshape(-1, 2).T
        pairs = list(measured)
        for number, series in fine.items():
            own = (self.instruments.labels == number)[:, None]
            dark = np.where(own, (solved.bias - solved.offset) / solved.gain, np.nan)
            pairs = [
                without_fine_flat(of_channel, (i, j), series.channel(c), self.frame, dark[:, c])
                for c, of_channel in enumerate(pairs)
            ]
        return pairs

    def added(self, solved: Solution, fine: FineFlats) -> Solution:
        """Return a solution with the fine structure of its instruments."""
        labels, channels = self.instruments.labels, solved.gain.shape[1]
        lights = {int(labels[light.tiles[0]]): light for light in solved.illuminations}
        for number, series in fine.items():
            tiles = np.flatnonzero(labels == number)
            height, width = self.frame.shape[tiles[0]].tolist()
            none = np.zeros((channels, len(TERMS)))
            no_errors = np.zeros((channels, len(TERMS), len(TERMS)))
            even = Illumination(
                self.instruments.names[number], tiles, (height, width),
                none, none, no_errors, no_errors,
            )  # fmt: skip
            lights[number] = replace(lights.get(number, even), fine=series)
        return replace(solved, illuminations=tuple(lights[number] for number in sorted(lights)))
