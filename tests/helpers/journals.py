"""Journals of invented runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zemosaic.runtime.events import JobEnded, JobSubmitted, RunStarted, StageStarted
from zemosaic.runtime.journal import Journal
from zemosaic.runtime.observers import FanOut

SECOND = 1_000_000_000
ABOUT = {"command": "zemosaic intertile a.fits b.fits -o run", "cwd": os.getcwd(), "host": "h"}


def submitted(index: int, at: int) -> JobSubmitted:
    attributes = {"name_i": "a.fits", "name_j": f"{index}.fits"}
    return JobSubmitted(stage="pairs", index=index, time_ns=at * SECOND, attributes=attributes)


def ended(index: int, at: int, **more: Any) -> JobEnded:
    return JobEnded(
        stage="pairs", index=index, done=index, total=4, outcome="measured", attributes={},
        submitted_ns=at * SECOND, started_ns=at * SECOND, ended_ns=(at + 1) * SECOND, pid=7, **more,
    )  # fmt: skip


BEGUN: list[Any] = [
    RunStarted(run_id="r", time_ns=100 * SECOND),
    StageStarted(stage="pairs", time_ns=101 * SECOND, total=4),
    submitted(1, 102),
    submitted(2, 102),
    ended(1, 103, key="k", result=[]),
    submitted(3, 104),
]


def write(folder: Path, events: list[Any], about: dict[str, Any] = ABOUT) -> Path:
    recorder = Journal(folder, about)
    fan_out = FanOut([recorder])
    for event in events:
        fan_out.dispatch(event)
    recorder.close()
    return folder
