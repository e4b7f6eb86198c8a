"""The fine structure of the illumination of instruments with many tiles."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from ..photometry.cosine_series import CosineSeries
from ..photometry.fine_flat.corrected_blocks import CorrectedBlocks
from ..photometry.fine_flat.differences import Differences
from ..photometry.fine_flat.fit import fit_fine_flat
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
#: Overlaps that are compared: if the first show no structure, no more.
FIRST_PAIRS, MOST_PAIRS = 150, 600
KEPT_TILES = 256  # with corrected blocks in memory

FineFlats = Mapping[int, CosineSeries]


def find_fine_flats(
    context: RunContext,
    solved: Solution,
    records: Sequence[PairRecord],
    frame: TileFrame,
    instruments: Instruments,
) -> FineFlats:
    """Find the fine structure of instruments by what a solution leaves in the overlaps.

    Suspect tiles are left out.

    Parameters
    ----------
    context : RunContext
        The run, with the previews.
    solved : Solution
        A solution without fine structure.
    records : sequence of PairRecord
        All pairs.
    frame : TileFrame
        Positions of the tiles.
    instruments : Instruments
        The instruments of the tiles.

    Returns
    -------
    mapping
        The structure of ln F by the number of the instrument.
    """
    sound = np.isfinite(solved.gain).all(axis=1) & ~solved.suspect.any(axis=1)
    labels = np.where(sound, instruments.labels, -1)
    found: dict[int, CosineSeries] = {}
    for number in range(len(instruments.names)):
        if np.count_nonzero(labels == number) < FEWEST_TILES:
            continue
        pairs = [
            (record.i, record.j)
            for record in records
            if record.outcome == "measured" and labels[record.i] == labels[record.j] == number
        ]
        try:
            fine = _fine_flat(context, solved, pairs, frame)
        except (OSError, ValueError) as error:
            context.note(
                logging.WARNING,
                f"{context.previews.folder}: cannot be read again ({error}); fine structure of the "
                "illumination was not looked for",
            )
            return {}
        if fine is not None:
            found[number] = fine
    return found


def _fine_flat(
    context: RunContext, solved: Solution, pairs: Sequence[tuple[int, int]], frame: TileFrame
) -> CosineSeries | None:
    """Return the fine structure of one instrument by its pairs; None without any."""
    if not pairs:
        return None
    tile = pairs[0][0]
    height, width = frame.shape[tile].tolist()
    block = SIDE / np.sqrt(abs(np.linalg.det(frame.jacobian[tile])))  # in pixels
    side = Lattice.blocks_between_nodes((height, width), block)
    lattice = Lattice.of((height, width), side * block)

    @lru_cache(KEPT_TILES)
    def blocks(index: int) -> CorrectedBlocks:
        preview = Preview.load(context.previews.here(context.previews.preview(index)))
        return CorrectedBlocks.of(preview, solved.correction(index), (height, width), side)

    fine = None
    for most in (FIRST_PAIRS, MOST_PAIRS):
        chosen = np.unique(np.linspace(0, len(pairs) - 1, most).astype(int)).tolist()
        differences = Differences.of((pairs[number] for number in chosen), blocks)
        fine = None if differences is None else fit_fine_flat(differences, lattice)
        if fine is None or len(chosen) == len(pairs):
            break
    return fine


def without_fine_flats(
    measured: Sequence[MeasuredPairs],
    ends: tuple[np.ndarray, np.ndarray],
    fine: FineFlats,
    solved: Solution,
    frame: TileFrame,
    instruments: Instruments,
) -> list[MeasuredPairs]:
    """Return the measured pairs of each channel as if no tile had a fine structure."""
    pairs = list(measured)
    for number, series in fine.items():
        for channel in range(len(pairs)):
            dark = (solved.bias - solved.offset)[:, channel] / solved.gain[:, channel]
            dark = np.where(instruments.labels == number, dark, np.nan)
            pairs[channel] = without_fine_flat(pairs[channel], ends, series, channel, frame, dark)
    return pairs


def with_fine_flats(
    solved: Solution, fine: FineFlats, frame: TileFrame, instruments: Instruments
) -> Solution:
    """Return a solution with the fine structure of its instruments."""
    lights = {int(instruments.labels[light.tiles[0]]): light for light in solved.illuminations}
    channels = solved.gain.shape[1]
    for number, series in fine.items():
        tiles = np.flatnonzero(instruments.labels == number)
        height, width = frame.shape[tiles[0]].tolist()
        smooth = Illumination(
            instruments.names[number], tiles, (height, width),
            *np.zeros((2, channels, len(TERMS))),
            *np.zeros((2, channels, len(TERMS), len(TERMS))),
        )  # fmt: skip
        lights[number] = replace(lights.get(number, smooth), fine=series)
    return replace(solved, illuminations=tuple(lights[number] for number in sorted(lights)))
