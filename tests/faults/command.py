"""A command in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.cli import Run
from zemosaic.runtime import journal
from zemosaic.runtime.events import Event

INJECT = Path(__file__).parent / "inject"
PROGRAM = "from zemosaic.cli import main; main()"
PATIENCE = 180.0  # seconds that a loaded machine may take; only failures last as long


class Command:
    """A running command with its run folder."""

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip

    def wait_for(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Wait for a condition while the command runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "the condition was never true"
            time.sleep(0.005)

    def events(self, kind: type, stage: str = "") -> list[Any]:
        """Return the events of the run that its journal holds now."""
        return events_of(self.folder, kind, stage)

    def kill(self, number: int = signal.SIGKILL if os.name != "nt" else signal.SIGTERM) -> None:
        """Send a signal to the run, but not to its workers."""
        os.kill(self.process.pid, number)

    def end(self, seconds: float = PATIENCE) -> Run:
        """Wait for the end of the command."""
        out, err = self.process.communicate(timeout=seconds)
        return Run(self.process.returncode, out, err)

    def clean_up(self) -> None:
        """Kill all processes that the command started: they share its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def events_of(folder: Path, kind: type, stage: str = "") -> list[Any]:
    """Return the events of one kind in the last run of a folder."""
    records = journal.read(folder)
    events: list[Event] = records[-1].events if records else []
    return [e for e in events if isinstance(e, kind) and (not stage or e.stage == stage)]


Start = Callable[..., Command]
