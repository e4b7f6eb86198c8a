"""Damaged FITS files through all stages: any error is that of a tile, in one line."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path

import numpy as np
from astropy.io import fits

from tests.helpers.tiles import simulated
from zemosaic.errors import NoSolution
from zemosaic.pipeline.calibrate import calibrate
from zemosaic.pipeline.solution import PhaseSolution
from zemosaic.settings import Settings

BLOCK = 2880
WORDS = [
    b"NAXIS", b"NAXIS1", b"NAXIS2", b"BITPIX", b"CRVAL1", b"CRPIX1", b"CD1_1", b"PC1_1", b"CDELT1",
    b"CTYPE1", b"CTYPE2", b"BSCALE", b"BZERO", b"BLANK", b"EXTEND", b"LONPOLE", b"END",
]  # fmt: skip
VALUES = [
    b"0", b"-1", b"1", b"999", b"1000", b"2147483647", b"1E308", b"-1E308", b"NaN", b"Inf", b"'X'",
    b"''", b"T", b"1.0D400", b"'RA---ZEA'", b"", b"'\x1b[2J'",
]  # fmt: skip


class FileFuzzer:
    """Damages one of three tiles, calibrates them and writes them corrected."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "sound").mkdir(parents=True)
        self._tiles = []
        for tile in simulated(tiles=3):
            path = folder / "sound" / tile.name
            fits.PrimaryHDU(tile.data, tile.wcs.to_header(relax=True)).writeto(path)
            self._tiles.append(path)

    def run(self, seed: int) -> None:
        """The sound tiles keep finite corrections, and each failure is one line with its file."""
        rng = random.Random(seed)
        content = bytearray(self._tiles[1].read_bytes())
        for _ in range(rng.choice((1, 1, 3))):
            rng.choice((_set_card, _flip_bits, _cut, _shift))(content, rng)
        damaged = self._folder / "damaged.fits"
        damaged.write_bytes(content)
        out = self._folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        tiles = [self._tiles[0], damaged, self._tiles[2]]
        with contextlib.suppress(NoSolution):
            self._check(calibrate(tiles, Settings(), "serial", [], apply_to=out))

    def _check(self, solution: PhaseSolution) -> None:
        for index, reason in solution.failed.items():
            assert solution.names[index] == "damaged.fits", solution.failed
            assert "\n" not in reason
            assert "damaged.fits" in reason
        assert np.isfinite(solution.gain[[0, 2]]).all()


def _set_card(content: bytearray, rng: random.Random) -> None:
    word, value = rng.choice(WORDS), rng.choice(VALUES)
    place = content.find(word.ljust(8) + b"=", 0, BLOCK)
    if place < 0 or word == b"END":
        place = 80 * rng.randrange(BLOCK // 80)
    content[place : place + 80] = (word.ljust(8) + b"= " + value.rjust(20)).ljust(80)[:80]


def _flip_bits(content: bytearray, rng: random.Random) -> None:
    end = rng.choice((BLOCK, len(content)))
    for _ in range(rng.choice((1, 10, 200))):
        content[rng.randrange(min(end, len(content)))] ^= 1 << rng.randrange(8)


def _cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(1, len(content)) :]


def _shift(content: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(content))
    if rng.random() < 0.5:
        content[place:place] = bytes(rng.choice((1, 2, 80, BLOCK)))
    elif len(content) > BLOCK:
        del content[place : place + rng.choice((1, 2, 80))]
