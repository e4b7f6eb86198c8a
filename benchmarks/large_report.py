"""The report of a large run: a run on tiny tiles, repeated side by side, and its page.

    python benchmarks/large_report.py [--tiles N] [--pairs N] [--unit N] [--python FILE ...]
                                      [--folder DIR] [--json FILE]

Runs ``zemosaic intertile`` on ``--unit`` tiles (`large.py`), and writes the journal, the tables and
the thumbnails that so many copies of them would leave, without links between the copies, that there
are at least ``--tiles`` tiles and ``--pairs`` pairs. Then it measures, each in a process of its
own, the processor time and the peak memory of what reads such a run: its report, its autopsy, and
the index of its results for a resume.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from large import SIDE, peak, run_phase, write_page, write_tiles

from zemosaic.runtime.journal_lines import decode_line, encode_line

BLOCK = 3  # pixels along a side of a preview cell of these tiles
NAME = re.compile(r"tile_(\d{6})\.fits")


@dataclass(frozen=True)
class Copies:
    """Copies of a run of some tiles and pairs, in a square of some columns."""

    number: int
    tiles: int
    pairs: int
    span: int  # preview cells from one copy to the next

    @property
    def columns(self) -> int:
        """Number of copies side by side."""
        return math.ceil(math.sqrt(self.number))

    @property
    def factor(self) -> int:
        """Preview cells along the side of a thumbnail's cell."""
        return math.ceil(self.columns * self.span / 800)

    def shift(self, copy: int) -> tuple[int, int]:
        """Return the cells by which a copy is shifted."""
        row, column = divmod(copy, self.columns)
        return column * self.span, row * self.span

    def rename(self, text: str, copy: int) -> str:
        """Return a text with the names of the tiles of a copy."""
        shift = copy * self.tiles
        return NAME.sub(lambda name: f"tile_{int(name[1]) + shift:06d}.fits", text)

    def entry(self, entry: dict[str, Any], copy: int) -> dict[str, Any]:
        """Return the entry of a job of a copy."""
        count = self.pairs if entry["stage"] == "pairs" else self.tiles
        shifted = entry | {"index": entry["index"] + copy * count}
        shifted["attributes"] = attributes = dict(entry["attributes"])
        for name in attributes.keys() & {"name", "name_i", "name_j"}:
            attributes[name] = self.rename(attributes[name], copy)
        for name in attributes.keys() & {"index", "tile_i", "tile_j"}:
            attributes[name] += copy * self.tiles
        if "pid" in entry:
            shifted["pid"] += copy * 1_000_000  # as from a worker of its own
        if "done" in entry:
            shifted |= {"done": entry["done"] + copy * count, "total": count * self.number}
        if entry.get("key"):
            shifted["key"] = f"{int(entry['key'], 16) ^ copy:024x}"
        if entry["stage"] == "tiles" and "result" in entry:
            result = shifted["result"] = dict(entry["result"])
            x, y = self.shift(copy)
            result |= {"x0": result["x0"] + x, "y0": result["y0"] + y, "thumb": self.factor}
            result["centre"] = [result["centre"][0] + x, result["centre"][1] + y]
        return shifted


def repeat_run(source: Path, folder: Path, tiles: int, pairs: int) -> Copies:
    """Write the folder of a run as large as asked for."""
    lines = (source / "journal.jsonl").read_bytes().splitlines()
    entries = [decode_line(line)[0] for line in lines if line.strip()]
    jobs = {
        stage: [e for e in entries if e.get("kind") == "JobEnded" and e["stage"] == stage]
        for stage in ("tiles", "pairs")
    }
    count = {stage: len(ended) for stage, ended in jobs.items()}
    number = max(math.ceil(tiles / count["tiles"]), math.ceil(pairs / count["pairs"]))
    side = math.isqrt(count["tiles"] - 1) + 1
    copies = Copies(number, count["tiles"], count["pairs"], side * SIDE * 3 // 4 // BLOCK)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "journal.jsonl").open("wb") as journal:
        journal.writelines(map(encode_line, _repeat_entries(entries, copies)))
    repeat_thumbnails(source, folder, jobs["tiles"], copies)
    for name in ("corrections", "pairs"):
        repeat_table(source / f"{name}.ecsv", folder / f"{name}.ecsv", copies)
    return copies


def _repeat_entries(entries: list[dict[str, Any]], copies: Copies) -> Iterator[dict[str, Any]]:
    """Yield the entries of a journal, those of jobs once for each copy."""
    waiting: list[dict[str, Any]] = []
    for entry in entries:
        if entry.get("kind") in ("JobEnded", "JobSubmitted"):
            waiting.append(entry)
            continue
        for copy in range(copies.number):
            yield from (copies.entry(job, copy) for job in waiting)
        waiting = []
        if entry.get("kind") == "StageStarted" and entry["total"]:
            entry["total"] *= copies.number
        if "tiles.total" in entry.get("attributes", {}):
            entry["attributes"]["tiles.total"] = copies.tiles * copies.number
        yield entry


def repeat_thumbnails(
    source: Path, folder: Path, jobs: list[dict[str, Any]], copies: Copies
) -> None:
    """Write the thumbnails of all copies, of larger cells."""
    from zemosaic.pipeline.records import load_thumbnails, save_thumbnails

    images, factor = load_thumbnails(source), copies.factor
    corners = {job["attributes"]["index"]: job["result"] for job in jobs}
    repeated = {}
    for copy in range(copies.number):
        x, y = copies.shift(copy)
        for index, image in images.items():
            first_y, first_x = (
                -(corners[index][n] + by) % factor for n, by in (("y0", y), ("x0", x))
            )
            own = image[:, first_y:, first_x:]
            channels, height, width = own.shape
            cells = own[:, : height // factor * factor, : width // factor * factor]
            blocks = cells.reshape(channels, height // factor, factor, width // factor, factor)
            repeated[index + copy * copies.tiles] = blocks.mean(axis=(2, 4))
    save_thumbnails(folder, repeated)


def repeat_table(source: Path, path: Path, copies: Copies) -> None:
    """Write a table of all copies."""
    lines = source.read_text().splitlines(keepends=True)
    start = next(k for k, line in enumerate(lines) if not line.startswith("#")) + 1
    names = lines[start - 1].split()
    shifts = {"pair": copies.pairs, "tile": copies.tiles, "tile_i": copies.tiles,
              "tile_j": copies.tiles}  # fmt: skip
    places = [(names.index(name), shift) for name, shift in shifts.items() if name in names]
    with path.open("w") as table:
        table.writelines(lines[:start])
        for copy in range(copies.number):
            for line in lines[start:]:
                cells = copies.rename(line, copy).split(" ")
                for place, shift in places:
                    cells[place] = str(int(cells[place]) + copy * shift)
                table.write(" ".join(cells))


def read_state(folder: Path) -> dict[str, float]:
    """Make the autopsy of a run; return its processor time and the peak memory."""
    from zemosaic.observe.autopsy import examine
    from zemosaic.observe.autopsy_text import summary_lines

    start = time.process_time()
    summary_lines(examine(folder))
    return {"autopsy, s": time.process_time() - start, "autopsy, GiB": peak()}


def index_results(folder: Path) -> dict[str, float]:
    """Find the results of a run for a resume; return the processor time and the peak memory."""
    from zemosaic.runtime import journal

    start = time.process_time()
    results = journal.results(folder)
    figures = {"results, s": time.process_time() - start, "results, GiB": peak()}
    return figures | {"results": len(results)}


STEPS: dict[str, Callable[[Path], dict[str, float]]] = {
    "page": write_page, "autopsy": read_state, "results": index_results,
}  # fmt: skip


def main() -> None:
    """Print a Markdown table, and write all figures as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=400_000)
    parser.add_argument("--unit", type=int, default=1024, help="tiles of the run that is repeated")
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "bench-large"))
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder / f"repeated{options.tiles}"
    if options.step:
        print(json.dumps(STEPS[options.step](folder)))
        return
    if not folder.exists():
        names = write_tiles(options.unit, options.folder / f"tiles{options.unit}")
        run_phase(names, options.folder / "unit", 2)
        copies = repeat_run(options.folder / "unit", folder, options.tiles, options.pairs)
        print(f"{copies.tiles * copies.number:,} tiles, {copies.pairs * copies.number:,} pairs")
    rows: list[dict[str, float]] = [{} for _ in options.python]
    for step in STEPS:
        for python, figures in zip(options.python, rows, strict=True):
            command = [python, __file__, *sys.argv[1:], "--step", step]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode == 0:
                figures.update(json.loads(done.stdout.splitlines()[-1]))
    print(f"| | {' | '.join(options.python)} |\n|---{'|---' * len(rows)}|")
    for name in rows[0]:
        cells = (f"{row.get(name, math.nan):.2f}" for row in rows)
        print(f"| {name} | {' | '.join(cells)} |")
    if options.json:
        options.json.write_text(json.dumps(dict(zip(options.python, rows, strict=True)), indent=1))


if __name__ == "__main__":
    main()
