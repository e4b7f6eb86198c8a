"""Worker processes of a daemonic process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def allow_children() -> Iterator[None]:
    """Let a daemonic process start children within the context.

    `multiprocessing` forbids it, because a daemonic process is terminated without a chance to end
    its children. Ours end with it, however it ends: see `worker_process`. There is no public way
    to allow it; joblib and billiard change the same entry.
    """
    config = getattr(multiprocessing.current_process(), "_config", {})
    daemonic = config.get("daemon")
    if not daemonic:
        yield
        return
    config["daemon"] = False
    try:
        yield
    finally:
        config["daemon"] = daemonic
