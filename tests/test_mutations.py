"""Damaged files: whatever happens to the bytes of one tile, the others are calibrated as before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.helpers.tiles import simulated
from zemosaic.pipeline.calibrate import calibrate
from zemosaic.pipeline.solution import PhaseSolution
from zemosaic.settings import Settings

BLOCK = 2880  # bytes: FITS headers and data end at a multiple
DAMAGED = 2  # index of the tile
MUTATIONS = 70  # of each type of pixels; thousands of other seeds pass as well
SCENE = {"tiles": 6, "electrons": 10, "seed": 3}

Mutate = Callable[[bytearray, int, int, np.random.Generator], None]


def flip_bits(content: bytearray, start: int, end: int, random: np.random.Generator) -> None:
    for at in random.integers(start, end, random.choice([1, 3, 20])):
        content[at] ^= 1 << random.integers(8)


def insert_bytes(content: bytearray, start: int, end: int, random: np.random.Generator) -> None:
    at = random.integers(start, end)
    content[at:at] = random.bytes(random.choice([1, 2, 3, 80]))


def insert_and_cut(content: bytearray, start: int, end: int, random: np.random.Generator) -> None:
    length = len(content)
    insert_bytes(content, start, end, random)
    del content[length:]


def remove_bytes(content: bytearray, start: int, end: int, random: np.random.Generator) -> None:
    at = random.integers(start, end)
    del content[at : at + random.choice([1, 2, 3, 80])]


def remove_and_pad(content: bytearray, start: int, end: int, random: np.random.Generator) -> None:
    length = len(content)
    remove_bytes(content, start, end, random)
    content.extend(bytes(length - len(content)))


def cut_off(content: bytearray, start: int, end: int, random: np.random.Generator) -> None:
    del content[random.integers(start, end) :]


def overwrite(content: bytearray, start: int, end: int, random: np.random.Generator) -> None:
    at = random.integers(start, end)
    length = min(int(random.integers(1, 3000)), len(content) - at)
    content[at : at + length] = random.bytes(length) if random.integers(2) else bytes(length)


MUTATORS: tuple[Mutate, ...] = (
    flip_bits, insert_bytes, insert_and_cut, remove_bytes, remove_and_pad, cut_off, overwrite
)  # fmt: skip


def write(folder: Path, dtype: str) -> list[Path]:
    paths = []
    for tile in simulated(**SCENE):
        paths.append(folder / tile.name)
        header = tile.wcs.to_header(relax=True)
        fits.PrimaryHDU(tile.data.astype(dtype), header).writeto(paths[-1])
    return paths


def mutated(content: bytes, header_end: int, seed: int) -> bytes:
    """Return the content of a file with one kind of damage in its header or in its data."""
    random, changed = np.random.default_rng(seed), bytearray(content)
    in_header = random.integers(2)
    data_start = -(-header_end // BLOCK) * BLOCK
    start, end = (0, header_end) if in_header else (data_start, len(content))
    MUTATORS[random.integers(len(MUTATORS))](changed, start, end, random)
    return bytes(changed)


def calibrated(paths: list[Path]) -> PhaseSolution:
    with np.errstate(all="ignore"):
        return calibrate(paths, Settings(workers=1), "serial", [])


def relative_errors(solution: PhaseSolution) -> np.ndarray:
    """Return the errors of the gains of all tiles but the damaged one, up to a common factor."""
    truth = np.array([tile.gain[0] for tile in simulated(**SCENE)])
    errors = np.delete(np.log(solution.gain[:, 0] / truth), DAMAGED)
    return errors - np.median(errors)


@pytest.mark.parametrize("dtype", ["float32", "uint16", "float64"])
def test_a_damaged_file_affects_its_tile_alone(dtype: str, tmp_path: Path) -> None:
    """The run ends with right gains of all other tiles, and every reason is in our own words."""
    paths = write(tmp_path, dtype)
    content = paths[DAMAGED].read_bytes()
    header_end = content.index(b"END" + b" " * 77) + 80
    for seed in range(MUTATIONS):
        paths[DAMAGED].write_bytes(mutated(content, header_end, seed))
        solution = calibrated(paths)
        assert solution.failed.keys() <= {DAMAGED}, (seed, solution.failed)
        reason = solution.failed.get(DAMAGED, f"{paths[DAMAGED]}: ")
        assert reason.startswith(f"{paths[DAMAGED]}: "), (seed, reason)
        used = np.ones(len(paths), dtype=bool)
        used[DAMAGED] = DAMAGED not in solution.failed
        for name in ("gain", "offset", "slope_x", "slope_y"):
            assert np.isfinite(getattr(solution, name)[used]).all(), (seed, name)
        assert np.abs(relative_errors(solution)).max() < 0.01, seed
        assert {record.outcome for record in solution.records} <= {"measured", "rejected"}, seed


def shift_by_a_byte(path: Path, at: float) -> None:
    """Insert a byte into the pixels, at a fraction of the file, and lose the last one."""
    content = bytearray(path.read_bytes())
    position = int(len(content) * at) | 1
    content[position:position] = b"\x07"
    path.write_bytes(content[:-1])


@pytest.mark.parametrize("factor", [1e-30, 1, 1e30])
@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
def test_a_byte_too_many_is_named(factor: float, at: float, tmp_path: Path) -> None:
    """A float32 tile with one byte too many is called damaged, and the rest is as without it."""
    paths = []
    for tile in simulated(**SCENE):
        paths.append(tmp_path / tile.name)
        header = tile.wcs.to_header(relax=True)
        fits.PrimaryHDU((tile.data * factor).astype("f4"), header).writeto(paths[-1])
    without = calibrated([path for k, path in enumerate(paths) if k != DAMAGED])
    shift_by_a_byte(paths[DAMAGED], at)
    solution = calibrated(paths)
    assert "its pixels are damaged" in solution.failed[DAMAGED]
    assert np.isnan(solution.gain[DAMAGED]).all()
    # The grid moves by a fraction of a cell.
    change = np.delete(solution.gain, DAMAGED, axis=0) - without.gain
    assert np.abs(change / without.gain_err).max() < 1


def test_a_flipped_exponent_is_no_measurement(tmp_path: Path) -> None:
    """A pixel of 1e25 among ordinary ones changes neither its tile nor the others."""
    paths = write(tmp_path, "float32")
    expected = calibrated(paths)
    data, header = fits.getdata(paths[DAMAGED], header=True)
    data[40, 60] = 1e25
    fits.PrimaryHDU(data, header).writeto(paths[DAMAGED], overwrite=True)
    solution = calibrated(paths)
    assert not solution.failed
    assert solution.gain == pytest.approx(expected.gain, rel=2e-3)
