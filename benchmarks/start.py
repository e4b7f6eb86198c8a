"""The timeline of a run: from the command to the first header, and from the last stage to exit.

    python benchmarks/start.py [--tiles N] [--size HxW] [--vignetting SHARE] [--repeats N]
                               [--python FILE ...] [--report] [--demo] [--folder DIR] [--json FILE]

Runs ``zemosaic intertile`` (``zemosaic demo`` with --demo) of each interpreter in turn, and prints
the median and the least of the seconds after the command. Times are those of the journal. "CPU" is
the processor time of all processes of the run, which other programs disturb less than the clock;
"left" counts the processes of its group that outlive it. Needs Linux for both.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import size, write_set

RUN = "from zemosaic.cli import main; main()"
STEPS = (
    "phase",
    "worker",
    "header",
    "preview",
    "pair",
    "solved",
    "end",
    "exit",
    "CPU",
    "left",
)
PR_SET_CHILD_SUBREAPER = 36


def measure(python: str, arguments: Sequence[str], folder: Path) -> dict[str, float]:
    """Run a command; return the times of its steps in seconds after its start."""
    shutil.rmtree(folder, ignore_errors=True)
    spent = _children()
    start_ns = time.time_ns()
    command = [python, "-P", "-c", RUN, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    if code := process.wait():
        raise SystemExit(f"{python} ended with {code}")
    times = {"exit": (time.time_ns() - start_ns) / 1e9}
    left = _reap_others()
    events = read_journal(folder / "journal.jsonl")
    times |= {step: (ns - start_ns) / 1e9 for step, ns in steps(events).items()}
    return times | {"CPU": _children() - spent, "left": left}


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _reap_others() -> int:
    """Wait for the descendants that outlive the command, and return their number."""
    left = 0
    while True:
        try:
            os.waitpid(-1, 0)
            left += 1
        except ChildProcessError:
            return left


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the events of a journal."""
    return [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]


def steps(events: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return the first time of each step in nanoseconds since the epoch."""
    found: dict[str, int] = {}
    jobs = {"scan": "header", "tiles": "preview", "pairs": "pair"}
    for event in events:
        kind = event["kind"]
        if kind == "RunStarted":
            found["phase"] = event["time_ns"]
        elif kind == "WorkerStarted":
            found["worker"] = min(found.get("worker", sys.maxsize), event["ready_ns"])
        elif kind == "JobEnded" and event["stage"] in jobs:
            step = jobs[event["stage"]]
            found[step] = min(found.get(step, sys.maxsize), event["started_ns"])
        elif kind == "StageEnded" and event["stage"] == "solve":
            found["solved"] = event["time_ns"]
        elif kind == "RunEnded":
            found["end"] = event["time_ns"]
    return found


def main() -> None:
    """Print a Markdown table, and write all figures as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=64)
    parser.add_argument("--size", type=size, default=(960, 1080), help="height and width of a tile")
    parser.add_argument("--vignetting", type=float, default=0.0, help="less light in the corners")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters")
    parser.add_argument("--report", action="store_true", help="write the page of the run")
    parser.add_argument("--demo", action="store_true", help="run zemosaic demo")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir(), "zemosaic-bench")
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    run = options.folder / "start"
    arguments = ["demo", str(run)]
    if not options.demo:
        from zemosaic.photometry.simulate import Scene

        scene = Scene(tiles=options.tiles, shape=options.size, vignetting=options.vignetting)
        tiles = write_set(scene, options.folder)
        arguments = ["intertile", *tiles.files, "-o", str(run)]
    arguments += ["-q", *([] if options.report else ["--no-report"])]
    results: dict[str, list[dict[str, float]]] = {python: [] for python in options.python}
    for _ in range(options.repeats):
        for python, rows in results.items():
            rows.append(measure(python, arguments, run))
    print(f"| python | | {' | '.join(STEPS)} |")
    print("|---" * (len(STEPS) + 2) + "|")
    for python, rows in results.items():
        for name, choose in (("median", statistics.median), ("least", min)):
            cells = (choose([row.get(step, float("nan")) for row in rows]) for step in STEPS)
            print(f"| {python} | {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
