"""The fine structure of the illumination of instruments with many tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

import numpy as np

from ..photometry.fine_structure.corrected_blocks import CorrectedBlocks
from ..photometry.fine_structure.differences import Differences
from ..photometry.fine_structure.fit import fine_kind, fit_fine_structure
from ..photometry.fine_structure.lattice import Lattice
from ..photometry.fine_structure.removal import without_fine_structure
from ..photometry.illumination import TERMS, FineStructure, Illumination, Instruments
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

FineStructures = Mapping[int, FineStructure]


@dataclass(frozen=True, eq=False)
class FineSearch:
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

    def suspected(self, solved: Solution) -> dict[int, str]:
        """Return the kind of structure that some overlaps show, by the numbers of instruments."""
        return {
            number: kind
            for number in range(len(self.instruments.names))
            if (found := self._differences(solved, number, few=True))
            and (kind := fine_kind(*found))
        }

    def fit(self, solved: Solution, kinds: Mapping[int, str]) -> FineStructures:
        """Return the structure of instruments with these kinds, by their numbers."""
        return {
            number: fine
            for number, kind in kinds.items()
            if (found := self._differences(solved, number))
            and (fine := fit_fine_structure(*found, kind)) is not None
        }

    def _differences(
        self, solved: Solution, number: int, few: bool = False
    ) -> tuple[Differences, Lattice] | None:
        """Return what is left in some overlaps of an instrument; None if it has too few tiles.

        Suspect tiles are left out.
        """
        sound = np.isfinite(solved.gain).all(axis=1) & ~solved.suspect.any(axis=1)
        own = sound & (self.instruments.labels == number)
        if np.count_nonzero(own) < FEWEST_TILES:
            return None
        pairs = [
            (record.i, record.j)
            for record in self.records
            if record.outcome == "measured" and own[record.i] and own[record.j]
        ]
        if not pairs:
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
        self, measured: Sequence[MeasuredPairs], fine: FineStructures, solved: Solution
    ) -> list[MeasuredPairs]:
        """Return the measured pairs of each channel as if no tile had a fine structure.

        The level without light of each tile is that of a solution.
        """
        i, j = np.array([(r.i, r.j) for r in self.records], dtype=int).reshape(-1, 2).T
        pairs = list(measured)
        for number, structure in fine.items():
            own = (self.instruments.labels == number)[:, None]
            dark = np.where(own, (solved.bias - solved.offset) / solved.gain, np.nan)
            pairs = [
                without_fine_structure(
                    of_channel, (i, j), structure.channel(c), self.frame, dark[:, c]
                )
                for c, of_channel in enumerate(pairs)
            ]
        return pairs

    def added(self, solved: Solution, fine: FineStructures) -> Solution:
        """Return a solution with the fine structure of its instruments."""
        lights = {self._number(light): light for light in solved.illuminations}
        for number, structure in fine.items():
            light = lights.get(number) or self._even(number, solved.gain.shape[1])
            lights[number] = replace(light, fine=structure)
        return replace(solved, illuminations=tuple(lights[number] for number in sorted(lights)))

    def smooth(self, solved: Solution, kinds: Mapping[int, str]) -> Solution:
        """Return a solution without the high degrees of instruments with some fine structure.

        They are bent by it.
        """
        lights = {self._number(light): light for light in solved.illuminations}
        smooth = (
            light.smooth(kinds[number]) if number in kinds else light
            for number, light in lights.items()
        )
        return replace(solved, illuminations=tuple(smooth))

    def _number(self, light: Illumination) -> int:
        """Return the number of the instrument of an illumination."""
        return int(self.instruments.labels[light.tiles[0]])

    def _even(self, number: int, channels: int) -> Illumination:
        """Return an illumination of 1 without a glow."""
        tiles = np.flatnonzero(self.instruments.labels == number)
        height, width = self.frame.shape[tiles[0]].tolist()
        none = np.zeros((channels, len(TERMS)))
        no_errors = np.zeros((channels, len(TERMS), len(TERMS)))
        name = self.instruments.names[number]
        return Illumination(name, tiles, (height, width), none, none, no_errors, no_errors)
