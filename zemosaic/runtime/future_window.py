"""The unfinished futures of a loop that somebody else owns."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

from .clock import Clock
from .inflight import Inflight, Row
from .pool import Pool
from .submission import Batch
from .window import Window

#: Frames of `concurrent.futures` that hold the work item of a thread.
_EXECUTOR_FILE = os.path.join("concurrent", "futures", "thread.py")


class FutureWindow(Window):
    """A window into which futures are put by their owner.

    Threads of a `ThreadPoolExecutor` are found by the future that they work for, so their stacks
    are known; stacks in other processes are not. Futures of Dask do not show whether they run;
    their scheduler does.
    """

    def __init__(self, stage: str, clock: Clock, inflight: Inflight | None) -> None:
        super().__init__(_NoPool(), stage, clock, inflight)
        #: The item that a loop without futures runs, and the thread of this loop.
        self.item: Any = None
        self.item_thread = 0
        self._futures: dict[int, Any] = {}  # by the index of the job
        self._waiting: deque[Any] = deque()  # not seen running, in order of submission
        self._threads: dict[Any, int] | None = None
        self._dask_keys: frozenset[Any] = frozenset()  # of tasks that Dask's workers have

    @property
    def futures(self) -> list[Any]:
        """All futures in the window, in the order of their submission."""
        return list(self._batches)

    def add(self, future: Any, batch: Batch) -> None:
        """Put a future into the window, with a batch of one job."""
        self._batches[future] = batch
        self._waiting.append(future)
        self._futures[batch.current_job.index] = future

    def take(self, future: Any) -> Batch:
        """Remove an ended future; return its batch."""
        batch, _ = self.remove(future)
        del self._futures[batch.current_job.index]
        return batch

    def ask_dask(self, futures: Iterable[Any], timeout: float) -> None:
        """Ask the schedulers of futures of Dask which tasks their workers have.

        It may take `timeout` seconds for each scheduler, so no lock should be held.
        """
        keys: set[Any] = set()
        for client in {future.client for future in futures if hasattr(future, "client")}:
            with suppress(Exception):  # a scheduler that is away: its futures are not known to run
                tasks = client.sync(
                    client.scheduler.processing, workers=None, callback_timeout=timeout
                )
                keys.update(*tasks.values())
        self._dask_keys = frozenset(keys)

    def update_next(self, now: float) -> None:
        """Update which futures run; executors start them in the order of their submission."""
        while self._waiting:
            future = self._waiting[0]
            batch = self._batches.get(future)
            if batch is not None and not future.done():
                if not self._is_running(future):
                    return
                batch.start_job(0, now, self._clock.time_ns())
            self._waiting.popleft()

    def update_running(self) -> None:
        """Update which futures run, whatever the order in which they start."""
        now, now_ns = self._clock.monotonic(), self._clock.time_ns()
        for future, batch in self._batches.items():
            if batch.running_since is None and self._is_running(future):
                batch.start_job(0, now, now_ns)

    def _is_running(self, future: Any) -> bool:
        running = getattr(future, "running", None)
        return bool(running()) if running else getattr(future, "key", None) in self._dask_keys

    def write_rows(self) -> list[Batch]:
        """Enter running futures into the table of running jobs, as far as it has rows.

        Returns
        -------
        list of Batch
            The batches new to the table.
        """
        entered: list[Batch] = []
        if self._inflight is None:
            return entered
        for batch in self._batches.values():
            if batch.running_since is None or batch.slot is not None:
                continue
            batch.slot = self._inflight.allocate(self._stage)
            if batch.slot is None:
                break
            row = self.row(batch)
            thread = row.thread if row is not None else 0
            index = batch.current_job.index
            self._inflight.write_row(batch.slot, index, thread, batch.running_since_ns)
            entered.append(batch)
        return entered

    def row(self, batch: Batch) -> Row | None:
        """Return the thread of a running future as a row; None if it is unknown."""
        if self._threads is None:
            self._threads = _threads_by_future()
        future = self._futures[batch.current_job.index]
        thread = self.item_thread if future is self.item else self._threads.get(future, 0)
        if not thread:
            return None
        started_ns = batch.running_since_ns
        return Row(
            index=batch.current_job.index, pid=os.getpid(), thread=thread, stage=self._stage,
            started_ns=started_ns, step="", step_ns=started_ns,
        )  # fmt: skip

    def stack(self, row: Row | None) -> str:
        """Return the stack of the thread of a row, as `faulthandler` prints it."""
        if row is not None and (dumped := super().stack(row)):
            return dumped
        frame = sys._current_frames().get(row.thread) if row is not None else None
        if row is None or frame is None:
            return ""
        lines = [f"Thread 0x{row.thread:016x} (most recent call first):"]
        while frame is not None:
            code = frame.f_code
            lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
            frame = frame.f_back
        return "\n".join(lines)

    def forget_threads(self) -> None:
        """Look for the threads of the futures again when they are next asked for."""
        self._threads = None


def _threads_by_future() -> dict[Any, int]:
    """Return the thread that works for each future of a `ThreadPoolExecutor`."""
    found = {}
    for thread, top in sys._current_frames().items():
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_code.co_filename.endswith(_EXECUTOR_FILE):
                future = getattr(frame.f_locals.get("self"), "future", None)
                if future is not None:
                    found[future] = thread
            frame = frame.f_back
    return found


class _NoPool(Pool):
    """Stands for the executor, which belongs to the owner of the futures."""

    kind = "loop"
    workers = 1
