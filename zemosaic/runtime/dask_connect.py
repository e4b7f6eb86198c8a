"""Connections to Dask clusters, and a cluster of our own on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from .dask_cluster import ANSWER_TIME
from .process_start import import_path, without_current_folder


def connect(address: str) -> Any:
    """Return a client of a running cluster.

    Raises
    ------
    UserError
        There is no scheduler, or distributed is not installed.
    """
    distributed = _distributed()
    try:
        client = distributed.Client(address, timeout=ANSWER_TIME, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{address}: no Dask scheduler answers ({reason})") from None
    return _hasten(client)


@dataclass
class LocalCluster:
    """A scheduler in this process, and workers of one thread in processes of their own.

    Parameters
    ----------
    workers : int
        Number of workers.
    """

    workers: int
    client: Any = field(init=False)
    _cluster: Any = field(init=False)
    _folder: str = field(init=False)

    def __post_init__(self) -> None:
        distributed = _distributed()
        import dask

        self._folder = tempfile.mkdtemp(prefix="zemosaic-dask-")
        settings = {
            "distributed.scheduler.allowed-failures": 0,  # a job that kills is not tried again
            "distributed.worker.multiprocessing-method": "spawn",
            # Also for the replacements of killed workers.
            "distributed.nanny.pre-spawn-environ": {
                **dask.config.get("distributed.nanny.pre-spawn-environ"),
                **import_path(),
            },
        }
        try:
            with dask.config.set(settings), without_current_folder():
                self._cluster = distributed.LocalCluster(
                    n_workers=self.workers, threads_per_worker=1, dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False}, worker_dashboard_address=None,
                    memory_limit=0, local_directory=self._folder, silence_logs=logging.CRITICAL,
                )  # fmt: skip
        except (OSError, RuntimeError, TimeoutError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"no Dask cluster can be started ({reason})") from None
        self.client = _hasten(distributed.Client(self._cluster, set_as_default=False))

    def close(self) -> None:
        """Kill the workers and end the cluster."""
        nannies = list(self._cluster.workers.values())
        for nanny in nannies:
            nanny.auto_restart = False
        for pid in [nanny.pid for nanny in nannies if nanny.pid]:  # also of workers still starting
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        for closed in (self.client, self._cluster):
            with contextlib.suppress(TimeoutError, OSError):
                closed.close(timeout=ANSWER_TIME)
        shutil.rmtree(self._folder, ignore_errors=True)


def _hasten(client: Any) -> Any:
    """Let a client send a task at once rather than 10 ms after the one before: 30 µs per job."""
    client.scheduler_comm.interval = 0.001
    return client


def _distributed() -> Any:
    """Import distributed; its logs of lost connections also come after the end of a cluster.

    The run itself reports the faults that matter.
    """
    try:
        import distributed
    except ImportError:
        raise UserError("a Dask cluster needs distributed; pip install 'zemosaic[dask]'") from None
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed
