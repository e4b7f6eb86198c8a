"""A Dask cluster in processes of its own, whose faults are given by the environment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.command import INJECT, PATIENCE


class Cluster:
    """A scheduler and workers with nannies in processes of their own, as on a cluster.

    The faults of the workers are given by the environment.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1", **environment: str) -> None:
        self._folder = folder / "dask"
        self._folder.mkdir()
        inject = {"PYTHONPATH": str(INJECT), "ZEMOSAIC_FAULT": "none@none",
                  "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}  # fmt: skip
        self._environment = os.environ | inject | environment
        self._processes: list[subprocess.Popen[bytes]] = []
        self._file = self._folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "--host", host, "--port", "0", "--no-dashboard",
            "--scheduler-file", str(self._file),
        )  # fmt: skip
        wait_until(self._address)
        self.pool = self._address().replace("tcp", "dask")
        self.nannies: list[subprocess.Popen[bytes]] = []

    def add_worker(self, *prefix: str, folder: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a nanny with one worker; the prefix may put it into another namespace."""
        self.nannies.append(
            self._start(
                "worker",
                "--scheduler-file",
                str(self._file),
                "--nthreads",
                "1",
                "--no-dashboard",
                "--local-directory",
                str(folder or self._folder),
                prefix=prefix,
            )
        )
        return self.nannies[-1]

    def _address(self) -> str:
        """Return the scheduler's address, empty until its file has been written whole."""
        try:
            return str(json.loads(self._file.read_text())["address"])
        except (FileNotFoundError, json.JSONDecodeError):
            return ""

    def _start(self, kind: str, *words: str, prefix: tuple[str, ...] = ()) -> Any:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", f"distributed.cli.dask_{kind}", *words],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self._environment,
            start_new_session=True,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def end(self) -> None:
        for process in self._processes:
            for pid in processes_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def corrections(folder: Path) -> str:
    return (folder / "corrections.ecsv").read_text()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def commands_of(session: int) -> list[str]:
    """Return the commands of the live processes of a session."""
    files = [Path(f"/proc/{pid}/cmdline") for pid in processes_of(session)]
    return [file.read_text().replace("\0", " ") for file in files if file.exists()]


def processes_of(session: int) -> list[int]:
    """Return the live processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if os.getsid(pid) == session and is_alive(pid):
                found.append(pid)
    return found


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition was never true"
        time.sleep(0.05)
