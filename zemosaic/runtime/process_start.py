"""How worker processes start: the start method, and the folders from which they import."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .worker_process import serve


def start_server(preload: Sequence[str]) -> None:
    """Start the forkserver, where there is one, so that it imports `preload` in the meantime."""
    if start_context(preload).get_start_method() == "forkserver":
        from multiprocessing import forkserver

        # The pool tries again, and reports a failure.
        with without_current_folder(), contextlib.suppress(OSError):
            forkserver.ensure_running()


@contextlib.contextmanager
def without_current_folder() -> Iterator[None]:
    """Let processes started in the context import from the folders of this one's import path.

    The forkserver and spawned processes start as ``python -c``, whose import path begins with the
    current folder until they have received that of this process: a file like ``numpy.py`` there
    would be executed. The forkserver would never look in folders that a program has added.
    """
    folders = [folder for folder in sys.path if _is_added(folder)]
    names = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(folders)}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _is_added(folder: str) -> bool:
    """Return whether a folder of the import path is not one of Python's own."""
    own = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    return (
        os.path.isabs(folder)
        and os.pathsep not in folder
        and not any(folder.startswith(os.path.join(prefix, "")) for prefix in own)
    )


def start_context(preload: Sequence[str]) -> Any:
    """Return a start method other than a plain fork, which copies the locks held by threads.

    Frameworks of macOS, as that which numpy uses there for linear algebra, crash in a forked
    process, so there each worker is spawned.
    """
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    if has_server and sys.platform != "darwin":
        context = multiprocessing.get_context("forkserver")
        # The forkserver imports these modules once, for all workers.
        context.set_forkserver_preload([*preload, serve.__module__])
        return context
    return multiprocessing.get_context("spawn")
