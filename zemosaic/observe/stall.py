"""A call when a run falls silent."""

from __future__ import annotations

import json
import logging
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from ..runtime.events import Heartbeat, JobEnded, RunStarted, StageEnded
from ..runtime.observers import Observer
from ..threads import start_thread
from .heartbeats import sentence

COMMAND_TIMEOUT = 60.0  # seconds

logger = logging.getLogger(__name__)


class OnStall(Observer):
    """Calls a function once in each silence: when no job has ended for a heartbeat, or when
    a stage without jobs runs for one.

    Parameters
    ----------
    function : callable
        Receives the first heartbeat of the silence and the id of the run, in a thread of its own.
        Its exceptions are logged, and the run does not wait for it.
    """

    def __init__(self, function: Callable[[Heartbeat, str], object]) -> None:
        self._function = function
        self._run_id = ""
        self._is_silent = False

    def run_started(self, event: RunStarted) -> None:
        """Begin a run."""
        self._run_id, self._is_silent = event.run_id, False

    def job_ended(self, event: JobEnded) -> None:
        """End the silence."""
        self._is_silent = False

    def stage_ended(self, event: StageEnded) -> None:
        """End the silence, also of a stage without jobs."""
        self._is_silent = False

    def heartbeat(self, event: Heartbeat) -> None:
        """Call the function at the first heartbeat of a silence."""
        if not self._is_silent:
            self._is_silent = True
            start_thread(
                lambda: self._call(event), "zemosaic-stall", "nothing is called at a stall"
            )

    def _call(self, event: Heartbeat) -> None:
        try:
            self._function(event, self._run_id)
        except Exception:
            logger.warning("the call at a stall failed", exc_info=True)


def run_command(command: str, folder: str) -> Callable[[Heartbeat, str], object]:
    """Return a function for `OnStall` that runs a command of the shell.

    The heartbeat is on its standard input as JSON, with the id and the folder of the run; its
    standard output is discarded. It is killed after `COMMAND_TIMEOUT`.
    """

    def call(event: Heartbeat, run_id: str) -> None:
        entry = {"run_id": run_id, "folder": folder, "message": sentence(event), **vars(event)}
        # A file, because a command that does not read would block a pipe.
        with tempfile.TemporaryFile() as text:
            text.write(json.dumps(entry, default=_plain).encode() + b"\n")
            text.seek(0)
            subprocess.run(
                command, shell=True, stdin=text, stdout=subprocess.DEVNULL, check=True,
                start_new_session=True, timeout=COMMAND_TIMEOUT,
            )  # fmt: skip

    return call


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) else str(value)
