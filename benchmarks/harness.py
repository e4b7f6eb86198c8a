"""Shared by speed.py and peers.py: tiles on disk, programs with measured memory, the machine.

Only the standard library is imported at the top, so that a program started by peers.py spends no
time on imports of other programs.
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

SAMPLING = 0.05  # seconds between samples of the memory
SAMPLING_SHARE = 0.1  # of that time for sampling itself; a large process tree is sampled less often


@dataclass(frozen=True)
class TileSet:
    """A scene on disk: FITS files, and the true values of their tiles."""

    folder: Path
    files: tuple[str, ...]
    truth: Mapping[str, Any]


def write_set(scene: Scene, folder: Path) -> TileSet:
    """Write the tiles of a scene, or return those that an earlier run wrote."""
    from zemosaic.photometry.simulate import simulate

    key = hashlib.sha256(repr(scene).encode()).hexdigest()[:10]
    h, w = scene.shape
    set_folder = folder / f"{scene.tiles}x{h}x{w}{'-rgb' if scene.rgb else ''}-{key}"
    tiles, truth_file = set_folder / "tiles", set_folder / "truth.json"
    if not truth_file.exists():
        tiles.mkdir(parents=True, exist_ok=True)
        rows = [_write_tile(tile, tiles) for tile in simulate(scene)]
        truth_file.write_text(json.dumps({name: [row[name] for row in rows] for name in rows[0]}))
    truth = json.loads(truth_file.read_text())
    return TileSet(set_folder, tuple(str(tiles / name) for name in truth["name"]), truth)


def _write_tile(tile: SimulatedTile, folder: Path) -> dict[str, Any]:
    import numpy as np
    from astropy.io import fits

    header = tile.wcs.to_header(relax=True)
    # Every program in peers.py can read a CD matrix.
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
    """The cost of a program: seconds, and the peak memory of its process tree in bytes."""

    seconds: float
    peak: int


class Failed(RuntimeError):  # noqa: N818 - names the outcome of a program
    """A program ended with an error; the message is its last line."""


def run_watched(commands: Sequence[Sequence[str]], folder: Path, watch: bool = True) -> Watched:
    """Run commands one after the other; return the sum of times and the largest peak."""
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
        # Montage reports errors on standard output, and always exits with 0.
        text = log.read_text(errors="replace").strip()
        if code != 0 or '[struct stat="ERROR"' in text:
            last = text.splitlines()[-1] if text else ""
            raise Failed(f"{Path(command[0]).name} ended with {code}: {last[:300]}")
    return Watched(seconds, peak)


@contextmanager
def _nothing() -> Iterator[list[int]]:
    yield []


@contextmanager
def memory_of(pid: int) -> Iterator[list[int]]:
    """Sample the memory of a process tree; yield a list with its peak in bytes.

    The memory is the proportional set size, in which a page shared by n processes counts 1/n in
    each; on systems without it, the resident set size, in which the page counts n times.
    """
    peaks = [0]
    stop = threading.Event()

    def sample() -> None:
        pause = 0.0
        while not stop.wait(pause):
            start = time.perf_counter()
            peaks[0] = max(peaks[0], _tree_memory(pid))
            pause = max(SAMPLING, (time.perf_counter() - start) / SAMPLING_SHARE)

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
        except (psutil.Error, OSError):  # it has ended
            continue
    return total


def cpu_seconds() -> float:
    """Return the processor time of this process and its descendants, including ended ones."""
    import psutil

    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error):  # it has ended
            spent = process.cpu_times()
            total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


class Load:
    """Measures the load of the machine by other programs."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), *self._spent()
        self._average = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")

    @staticmethod
    def _spent() -> tuple[float, float]:
        """Return the processor seconds so far of the machine, and of our process tree."""
        import psutil

        times = psutil.cpu_times()
        # The time of guests is part of the user time.
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
        busy -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        return busy, cpu_seconds()

    def report(self) -> dict[str, Any]:
        """Return the machine, and the share of its processors used by others since the start."""
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


def load_line(load: Mapping[str, Any]) -> str:
    """Return a line about the machine and its load."""
    return (
        f"{load['processors']} processors, Python {load['python']}; load {load['load_at_start']} "
        f"at the start, {load['busy_with_others_percent']:.0f} % of the processors used by other "
        "programs during the run."
    )


def median_ratio(upper: Sequence[float], lower: Sequence[float]) -> float:
    """Return the median of the ratios of runs that followed each other."""
    return statistics.median(u / v for u, v in zip(upper, lower, strict=True))


def size(text: str) -> tuple[int, int]:
    """Return height and width of HxW."""
    height, _, width = text.lower().partition("x")
    return int(height), int(width)
