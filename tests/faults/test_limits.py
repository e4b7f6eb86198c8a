"""A system that refuses threads, processes or memory: the run does without, and reports it once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cli import Run
from zemosaic.runtime import journal
from zemosaic.runtime.events import JobEnded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits threads as Linux does")

PROGRAM = """
import ctypes, os, resource
if os.geteuid() == 0:
    # The limit of processes spares root: become a user without any, who may still read all files.
    libc = ctypes.CDLL(None)
    for capability in (SYS_ADMIN, SYS_RESOURCE) if {limit} == resource.RLIMIT_NPROC else ():
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setresuid(54321, 0, 0)
    head, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(head, data)
    for word in range(3):
        data[word] &= ~(1 << SYS_ADMIN | 1 << SYS_RESOURCE)
    libc.capset(head, data)
resource.setrlimit({limit}, ({value}, {value}))
from zemosaic.cli import main
main()
"""
CONSTANTS = "PR_CAPBSET_DROP, SYS_ADMIN, SYS_RESOURCE = 24, 21, 24"


def limited(limit: str, value: int, *arguments: str) -> Run:
    """Run the command under a limit."""
    program = CONSTANTS + PROGRAM.format(limit=f"resource.{limit}", value=value)
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("pool", ["processes", "threads", "serial"])
@pytest.mark.parametrize("processes", [1, 3, 5])
def test_a_run_without_threads_or_processes(
    tiles: list[str], tmp_path: Path, pool: str, processes: int
) -> None:
    """It solves, keeps its journal and its trace, and reports each missing thread once."""
    folder = tmp_path / "run"
    done = limited(
        "RLIMIT_NPROC", processes,
        "intertile", *tiles, "-o", str(folder), "--pool", pool, "--workers", "2", "--no-report",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "/zemosaic/" not in done.err  # no traceback but those of multiprocessing's server
    assert "taken off" not in done.err
    reports = [line[9:] for line in done.err.splitlines() if "start" in line]
    assert len(reports) == len(set(reports))
    if processes == 1:
        assert "can't start new thread" in done.err
    (record,) = journal.read(folder)
    assert record.ended is not None
    assert len([e for e in record.events if isinstance(e, JobEnded)]) == 6 + 6 + 11
    assert (folder / "trace.jsonl").read_text().count('"spanId"') == 23
