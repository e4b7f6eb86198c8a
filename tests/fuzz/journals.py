"""Damaged journals: what cannot be read is unknown, and everything else is used as it was."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from rich.console import Console as Terminal

from tests.helpers.tiles import simulated
from zemosaic.errors import UserError
from zemosaic.observe.autopsy import examine
from zemosaic.observe.autopsy_text import summary_lines
from zemosaic.observe.status import status
from zemosaic.pipeline.calibrate import calibrate
from zemosaic.report.build import write_report
from zemosaic.runtime import journal
from zemosaic.runtime.events import Event
from zemosaic.runtime.journal import Journal
from zemosaic.runtime.observers import Observer
from zemosaic.settings import Settings

ABOUT = {"version": "x", "command": "zemosaic intertile", "cwd": "/", "resume": True}


class JournalFuzzer:
    """Damages the journal of a run that died before it solved, and resumes the run."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._run = folder, folder / "dead"
        tiles = folder / "tiles"
        tiles.mkdir(parents=True)
        self._tiles = []
        for tile in simulated(tiles=3):
            path = tiles / tile.name
            fits.PrimaryHDU(tile.data, tile.wcs.to_header(relax=True)).writeto(path)
            self._tiles.append(str(path))
        self._expected = self._calibrate(self._run, dies=True)
        self._lines = (self._run / "journal.jsonl").read_bytes().splitlines(keepends=True)

    def _calibrate(self, folder: Path, dies: bool = False) -> np.ndarray:
        folder.mkdir(exist_ok=True)
        cached = dict(journal.results(folder))
        recorder = Journal(folder, ABOUT)
        if not dies:
            solution = calibrate(self._tiles, Settings(), "serial", [recorder], folder=folder,
                                 cached_results=cached)  # fmt: skip
        else:
            # The previews stay, as after a death.
            solution = calibrate(self._tiles, Settings(), "serial", [_UntilSolve(recorder)],
                                 folder=folder, on_solution=lambda _: _keep(folder))  # fmt: skip
            (folder / "kept").rename(folder / "previews")
        recorder.close()
        return np.concatenate([solution.gain, solution.offset])

    def run(self, seed: int) -> None:
        """Damage the journal, read it by all commands, resume, and compare the solution."""
        rng, folder = random.Random(seed), self._folder / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._run, folder)
        damaged = bytearray(b"".join(self._lines))
        for _ in range(rng.choice((1, 1, 1, 3, 20))):
            damaged = rng.choice(DAMAGES)(damaged, rng)
        (folder / "journal.jsonl").write_bytes(damaged)
        try:
            autopsy = examine(folder)
        except UserError:  # nothing of the run is left
            assert not journal.read(folder)
        else:
            assert summary_lines(autopsy)
            Terminal(quiet=True).print(status(autopsy))
            write_report(folder)
        assert np.array_equal(self._calibrate(folder), self._expected, equal_nan=True)


class _UntilSolve(Observer):
    """Passes events to a journal until the stage solve has started."""

    def __init__(self, recorder: Journal) -> None:
        self._recorder, self._open = recorder, True

    def handle_batch(self, events: Sequence[Event]) -> None:
        if self._open:
            self._recorder.handle_batch(events)
        self._open &= getattr(events[0], "stage", "") != "solve"


def _keep(folder: Path) -> None:
    (folder / "previews").rename(folder / "kept")


def _flip_bit(content: bytearray, rng: random.Random) -> bytearray:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def _replace_digit(content: bytearray, rng: random.Random) -> bytearray:
    places = [k for k, byte in enumerate(content) if byte in b"0123456789abcdef"]
    content[rng.choice(places)] = rng.choice(b"0123456789abcdef")
    return content


def _cut(content: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(content))
    del content[start : start + rng.choice((1, 7, 512, 4096, len(content)))]
    return content or bytearray(b"\n")


def _zero(content: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(content))
    end = min(start + rng.choice((1, 512, 4096)), len(content))
    content[start:end] = bytes(end - start)
    return content


def _null_value(content: bytearray, rng: random.Random) -> bytearray:
    places = [k for k in range(len(content) - 1) if content[k : k + 1] == b":"]
    start = rng.choice(places or [0])
    end = content.find(b",", start)
    return content[: start + 1] + b"null" + content[end:]


def _nest(content: bytearray, rng: random.Random) -> bytearray:
    line = b'{"kind":"Note","level":20,"message":' + b"[" * 5000 + b"]" * 5000 + b"}\n"
    place = content.find(b"\n", rng.randrange(len(content))) + 1
    return content[:place] + line + content[place:]


def _shuffle_lines(content: bytearray, rng: random.Random) -> bytearray:
    lines = content.splitlines(keepends=True)
    k = rng.randrange(len(lines))
    change = rng.randrange(3)
    if change == 0:
        del lines[k]
    elif change == 1:
        lines.insert(rng.randrange(len(lines)), lines[k])
    else:
        lines[k], lines[-k] = lines[-k], lines[k]
    return bytearray(b"".join(lines)) or bytearray(b"\n")


DAMAGES: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (
    _flip_bit, _replace_digit, _cut, _zero, _null_value, _nest, _shuffle_lines,
)  # fmt: skip
