"""The state of the last run in a folder, in lines for people."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from ..runtime.run_folder import RunFolder
from ..runtime.stacks import innermost
from ..text import shell_command
from .autopsy import Autopsy, StuckJob
from .progress import job_name, stage_title

#: Stages with results that are saved, and names of these.
SAVED_RESULTS = {"tiles": "tiles", "pairs": "pairs", "blocks": "blocks of the mosaic"}


def summary_lines(autopsy: Autopsy) -> list[str]:
    """Return the state of the run in lines for people."""
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(autopsy.started_ns / 1e9))
    seconds = (autopsy.last_ns - autopsy.started_ns) / 1e9
    stage = f", in stage {autopsy.stage}" if autopsy.stage and autopsy.state != "finished" else ""
    lines = [
        f"run          {autopsy.folder}, started {started}, process {autopsy.pid or 'unknown'}"
    ]
    if autopsy.state == "running":
        lines.append(f"state        running for {seconds:.1f} s{stage}")
    else:
        lines.append(f"ended        {autopsy.state} after {seconds:.1f} s{stage}")
    if autopsy.cause:
        lines.append(f"cause        {autopsy.cause}")
    lines += [f"             {line}" for line in autopsy.stack.splitlines()[1:]]
    if (own := autopsy.own_stage) is not None:
        place = innermost(own.stack)
        lines.append(f"stage        {own}{f', {place}' if place else ''}")
    for number, job in enumerate(autopsy.running_jobs):
        label = "in progress  " if number == 0 else "             "
        lines.append(label + describe_job(job))
        lines += [f"               {line.strip()}" for line in job.stack.splitlines()[1:6]]
    lines.append(f"saved        {_saved_results(autopsy)}")
    if autopsy.record.damaged:
        lines.append(
            f"damaged      {autopsy.record.damaged} lines of the journal are not as they were "
            "written, and count as unknown; check the disk"
        )
    if autopsy.state in ("died", "failed", "interrupted"):
        lines.append(f"resume       {resume_command(autopsy)}")
    return lines


def describe_job(job: StuckJob) -> str:
    """Return a line about a job: its name, stage, step, seconds and worker."""
    row = job.row
    step = f", step {row.step}," if row.step else ""
    place = f" on {row.host}" if row.host else ""
    here = row.host in ("", socket.gethostname())
    alive = ", still running" if here and _is_alive(row.pid) else ""
    return (
        f"{job_name(row.stage, row.index, job.attributes)}: {stage_title(row.stage)}{step} "
        f"for {job.seconds:.1f} s, worker {row.pid}{place}{alive}"
    )


def resume_command(autopsy: Autopsy) -> str:
    """Return the shell command that resumes the run."""
    about = autopsy.record.about
    command = str(about.get("command", "zemosaic intertile"))
    if " --resume" not in command and not command.startswith("zemosaic demo"):
        command += " --resume"
    folder = str(about.get("cwd", ""))
    return (
        f"cd {shell_command([folder])} && {command}" if folder not in ("", os.getcwd()) else command
    )


def _saved_results(autopsy: Autopsy) -> str:
    counts = []
    for stage, title in SAVED_RESULTS.items():
        total = autopsy.job_counts(stage)[1]
        saved = autopsy.record.jobs.saved[stage]
        if total or stage != "blocks":
            counts.append(f"{saved} of {total} {title}" if total else f"no {title}")
    measured = f"{' and '.join(counts[:2])} measured by this run"
    blocks = "".join(f", {count} written" for count in counts[2:])
    return f"{measured}{blocks}, in {RunFolder(autopsy.folder).journal}"


def _is_alive(pid: int) -> bool:
    """Return whether a worker outlived its run; False on Windows, where `os.kill` would end it."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user, or a system without /proc
        return True
    return status.rpartition(")")[2].split()[0] != "Z"  # a zombie is dead
