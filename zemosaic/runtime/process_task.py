"""A task of the pool of processes, from its submission to its result."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

from .worker import TaskResult, run_task


@dataclass(eq=False)
class Task:
    """A call, pickled when a worker is about to need it, and the future of its result."""

    future: Future[TaskResult]
    call: tuple[Callable[..., Any], tuple[Any, ...]]
    pickled: bytes = b""

    def pickle(self) -> None:
        """Pickle the call, if it is not yet pickled."""
        self.pickled = self.pickled or bytes(ForkingPickler.dumps(self.call))

    def run_here(self) -> None:
        """Run the task in this process."""
        if self.future.set_running_or_notify_cancel():
            function, args = self.call
            result = run_task(function, args)
            with contextlib.suppress(InvalidStateError):  # the task was abandoned
                self.future.set_result(result)

    def set_pickled_result(self, pickled: bytes) -> None:
        """Set the result of the future, or the exception raised by unpickling it."""
        try:
            result = pickle.loads(pickled)
        except Exception as error:  # noqa: BLE001 - unpickling may raise anything
            self.set_exception(error)
        else:
            with contextlib.suppress(InvalidStateError):  # the task was abandoned
                self.future.set_result(result)

    def set_exception(self, error: Exception) -> None:
        """Set the exception of the future."""
        with contextlib.suppress(InvalidStateError):  # the task was abandoned
            self.future.set_exception(error)
