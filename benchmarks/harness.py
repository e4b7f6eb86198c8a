"""What speed.py and peers.py share: tiles on disk, a program run and watched, the machine.

Only the standard library is imported at the top, so that a program started by peers.py pays for
nothing but itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zemosaic.photometry.simulate import Scene, SimulatedTile

SAMPLING = 0.05  # seconds between two looks at the memory
TAKES_AT_MOST = 0.1  # of that time for looking itself; a large tree is looked at less often


@dataclass(frozen=True)
class TileSet:
    """A scene on disk: FITS files and, in `truth`, what they were made with."""

    folder: Path
    files: tuple[str, ...]
    truth: Mapping[str, Any]


def write_set(scene: Scene, folder: Path) -> TileSet:
    """Write the tiles of a scene, or find them as an earlier run wrote them."""
    from zemosaic.photometry.simulate import simulate

    key = hashlib.sha256(repr(scene).encode()).hexdigest()[:10]
    h, w = scene.shape
    place = folder / f"{scene.tiles}x{h}x{w}{'-rgb' if scene.rgb else ''}-{key}"
    tiles, told = place / "tiles", place / "truth.json"
    if not told.exists():
        tiles.mkdir(parents=True, exist_ok=True)
        rows = [_write_tile(tile, tiles) for tile in simulate(scene)]
        told.write_text(json.dumps({name: [row[name] for row in rows] for name in rows[0]}))
    truth = json.loads(told.read_text())
    return TileSet(place, tuple(str(tiles / name) for name in truth["name"]), truth)


def _write_tile(tile: SimulatedTile, folder: Path) -> dict[str, Any]:
    import numpy as np
    from astropy.io import fits

    header = tile.wcs.to_header(relax=True)
    # As a CD matrix, which every program in peers.py can read.
    for k, row in enumerate(tile.wcs.wcs.cd, 1):
        del header[f"CDELT{k}"]
        for m, value in enumerate(row, 1):
            header.remove(f"PC{k}_{m}", ignore_missing=True)
            header[f"CD{k}_{m}"] = float(value)
    header["BUNIT"] = "adu"
    fits.PrimaryHDU(tile.data, header).writeto(folder / tile.name, overwrite=True)
    planes = tile.data.reshape(-1, *tile.data.shape[-2:])
    return {
        "name": tile.name,
        "gain": tile.gain.tolist(),
        "offset": tile.offset.tolist(),
        "sky": np.nanmedian(planes, axis=(1, 2)).tolist(),
    }


@dataclass(frozen=True)
class Watched:
    """A program that ran to its end: seconds, and the peak of its tree in bytes."""

    seconds: float
    peak: int


class Failed(RuntimeError):  # noqa: N818 - it is what happened to a program
    """A program ended with an error; the message is what it said last."""


def run_watched(commands: Sequence[Sequence[str]], folder: Path, watch: bool = True) -> Watched:
    """Run commands one after the other in a folder; the sum of times, the largest peak."""
    seconds, peak = 0.0, 0
    for number, command in enumerate(commands):
        log = folder / f"{number}.log"
        with log.open("wb") as out:
            start = time.perf_counter()
            process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)
            try:
                with memory_of(process.pid) if watch else _nothing() as peaks:
                    code = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
            seconds += time.perf_counter() - start
        peak = max([peak, *peaks])
        # Montage says on standard output how it went, and ends with 0 whatever happened.
        said = log.read_text(errors="replace").strip()
        if code != 0 or '[struct stat="ERROR"' in said:
            last = said.splitlines()[-1] if said else ""
            raise Failed(f"{Path(command[0]).name} ended with {code}: {last[:300]}")
    return Watched(seconds, peak)


@contextmanager
def _nothing() -> Iterator[list[int]]:
    yield []


@contextmanager
def memory_of(pid: int) -> Iterator[list[int]]:
    """Sample the memory of a process and all below it in the meantime; peak in bytes at the end.

    Counted is the proportional set size: a page that n processes share counts 1/n in each.
    Where the system does not tell it, the resident set size is taken, which counts it n times.
    """
    peaks = [0]
    stop = threading.Event()

    def sample() -> None:
        pause = 0.0
        while not stop.wait(pause):
            start = time.perf_counter()
            peaks[0] = max(peaks[0], _tree_memory(pid))
            pause = max(SAMPLING, (time.perf_counter() - start) / TAKES_AT_MOST)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def _tree_memory(pid: int) -> int:
    import psutil

    total = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in processes:
        try:
            info = process.memory_full_info()
            total += getattr(info, "pss", 0) or info.rss
        except (psutil.Error, OSError):  # it ended in the meantime
            continue
    return total


def cpu_seconds() -> float:
    """Processor time of this process and all below it, those that ended included."""
    import psutil

    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error):  # it ended in the meantime
            spent = process.cpu_times()
            total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


class Load:
    """How busy the machine was, and how much of that was not ours."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), *self._spent()
        self._average = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")

    @staticmethod
    def _spent() -> tuple[float, float]:
        """Seconds of processor so far: the whole machine's, and those of our own tree."""
        import psutil

        times = psutil.cpu_times()
        # Guests' time is in user already.
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
        busy -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        return busy, cpu_seconds()

    def told(self) -> dict[str, Any]:
        """The machine, and the share of its processors that others took since the start."""
        start, busy, own = self._start
        busy_now, own_now = self._spent()
        processors = os.cpu_count() or 1
        others = (busy_now - busy - (own_now - own)) / (time.perf_counter() - start) / processors
        return {
            "processors": processors,
            "python": platform.python_version(),
            "load_at_start": round(self._average, 2),
            "busy_with_others_percent": round(100 * max(others, 0.0), 1),
        }


def say_load(told: Mapping[str, Any]) -> str:
    """One line about the machine."""
    return (
        f"{told['processors']} processors, Python {told['python']}; load {told['load_at_start']} "
        f"at the start, {told['busy_with_others_percent']:.0f} % of the processors busy with "
        "other programs meanwhile."
    )


def median_ratio(upper: Sequence[float], lower: Sequence[float]) -> float:
    """Median of the ratios of runs that followed one another."""
    return statistics.median(u / v for u, v in zip(upper, lower, strict=True))


def size(text: str) -> tuple[int, int]:
    """Height and width from HxW."""
    height, _, width = text.lower().partition("x")
    return int(height), int(width)
