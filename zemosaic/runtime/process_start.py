"""How worker processes start: the start method, and the folders from which they import."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ..threads import start_thread

#: Imported by the server before all others; not here, because it stops garbage collection.
_FIRST = f"{__package__}.uncollected"
#: The main function of workers; not here, because it would delay the start of the server.
_LAST = f"{__package__}.worker_process"
STOP_TIMEOUT = 2.0  # seconds; a process that a stuck worker keeps alive must not delay the exit


def start_server(preload: Sequence[str]) -> None:
    """Start the forkserver, if there is one; it imports `preload` in the meantime."""
    if start_context(preload).get_start_method() == "forkserver":
        from multiprocessing import forkserver

        # The pool tries again, and reports a failure.
        with without_current_folder(), contextlib.suppress(OSError):
            forkserver.ensure_running()


def stop_server() -> None:
    """End the forkserver and the resource tracker, if they run, and wait for them for a while.

    They end by themselves when this process has, but whoever waits for it would find them alive.
    """
    names = "multiprocessing.forkserver", "multiprocessing.resource_tracker"
    if sys.platform == "win32" or not sys.modules.keys() & set(names):
        return
    from multiprocessing import forkserver, resource_tracker

    server: Any = forkserver._forkserver
    tracker: Any = resource_tracker._resource_tracker
    if (pid := getattr(server, "_forkserver_pid", None)) is not None:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)  # at once: it has nothing to tidy up
    elif getattr(tracker, "_pid", None) is None:  # neither was started by this process
        return

    def stop() -> None:
        for process in (server, tracker):
            with contextlib.suppress(OSError, AttributeError):
                process._stop()

    thread = start_thread(
        stop, "zemosaic-exit", "worker processes may outlive the run for a moment"
    )
    if thread is not None:
        thread.join(STOP_TIMEOUT)


@contextlib.contextmanager
def without_current_folder() -> Iterator[None]:
    """Let processes started in the context import from the folders of this one's import path.

    The forkserver and spawned processes start as ``python -c``, whose import path begins with the
    current folder until they have received the path of this process: a file like ``numpy.py`` there
    would be executed. The forkserver would never look in folders that a program has added.
    """
    names = import_path()
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


def import_path() -> dict[str, str]:
    """Return the environment of `without_current_folder`."""
    folders = [folder for folder in sys.path if _is_added(folder)]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(folders)}


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

    Frameworks of macOS, as used there by numpy for linear algebra, crash in a forked process, so
    there each worker is spawned.
    """
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    if has_server and sys.platform != "darwin":
        context = multiprocessing.get_context("forkserver")
        # The forkserver imports these modules once, for all workers.
        context.set_forkserver_preload([_FIRST, *preload, _LAST])
        return context
    return multiprocessing.get_context("spawn")
