"""The workers of a Dask cluster that have the files of a run."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterable, Mapping

from .dask_task import RemoteTask, RemoteWorker
from .kept_files import Call, Origins

SOURCES = 3  # workers that are asked for a file before it is made again


class Holders:
    """The workers that have the files of a run.

    Parameters
    ----------
    workers : mapping
        The present workers by address.
    """

    def __init__(self, workers: Mapping[str, RemoteWorker]) -> None:
        self._workers = workers
        self._holders: dict[str, list[RemoteWorker]] = {}
        self.make: Callable[[str], Call | None] = lambda name: None

    def add(self, worker: RemoteWorker, names: Iterable[str]) -> None:
        """Record that a worker has files."""
        for name in names:
            holders = self._of(name)
            self._holders[name] = [*holders, *([] if worker in holders else [worker])]

    def _of(self, name: str) -> list[RemoteWorker]:
        """Return the workers that have a file and answer; another may have the address of one."""
        holders = self._holders.get(name, ())
        return [w for w in holders if w.is_usable and self._workers.get(w.address) is w]

    def count(self, worker: RemoteWorker, task: RemoteTask) -> int:
        """Return how many of a task's files a worker has."""
        return sum(worker in self._holders.get(name, ()) for name in task.files)

    def pickled_origins(self, task: RemoteTask) -> bytes:
        """Return the pickled origins of the files of a task."""
        return pickle.dumps(self.origins(task.files, task.remake))

    def origins(self, names: Collection[str], remake: Collection[str] = ()) -> Origins:
        """Return the places of files, and how to make the given and the lost ones again."""
        addresses = {name: [w.address for w in self._of(name)][:SOURCES] for name in names}
        calls = {
            name: call
            for name in names
            if (name in remake or not addresses[name]) and (call := self.make(name)) is not None
        }
        return Origins(addresses, calls)

    def can_make(self, task: RemoteTask, lost: Collection[str]) -> bool:
        """Let a task make lost files itself when it is sent again; return False if it cannot."""
        new = {name for name in lost if name not in task.remake and self.make(name) is not None}
        task.remake |= new
        return bool(new)
