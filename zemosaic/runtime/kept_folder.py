"""A run folder for a call inside an application, removed at the end if nothing went wrong."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import UserError
from . import journal
from .journal import Journal
from .run_folder import claim

Log = Callable[[int, str], None]


@dataclass
class KeptFolder:
    """The run folder of a call.

    Parameters
    ----------
    path : pathlib.Path
        Run folder.
    journals : list of Journal
        The journal; empty if the disk is full.
    cached_results : Mapping
        Results of earlier runs in the folder.
    keep : bool
        Whether the folder stays at the end of the call.
    """

    path: Path
    journals: list[Journal]
    cached_results: Mapping[str, Any] = field(default_factory=dict)
    keep: bool = False


@contextmanager
def keep_folder(
    folder: str | os.PathLike[str] | None, about: Mapping[str, Any], log: Log
) -> Iterator[KeptFolder | None]:
    """Lock a run folder and open its journal within the context.

    A folder in the temporary directory is removed at the end, unless the context raises or sets
    `KeptFolder.keep`; it is left behind if the process dies.

    Parameters
    ----------
    folder : path-like or None
        The run folder; None makes one in the temporary directory.
    about : Mapping
        Facts about the run besides those added here.
    log : callable
        Receives level and text of messages, the first of which names the folder.

    Yields
    ------
    KeptFolder or None
        None if there is no folder to write to; the call continues without.
    """
    with ExitStack() as stack:
        try:
            path = Path(folder or tempfile.mkdtemp(prefix="zemosaic-"))
            stack.enter_context(claim(path))
        except (OSError, UserError) as error:
            log(logging.WARNING, f"no run folder: {error}; a crash will leave no trace")
            yield None
            return
        log(logging.INFO, f"run folder {path}; after a crash: zemosaic autopsy {path}")
        cached = journal.results(path) if folder else {}
        kept = KeptFolder(path, _open_journal(path, about, log), cached)
        try:
            yield kept
        finally:
            for entry in kept.journals:
                entry.close()
    # Not reached after an exception: the folder has its reason.
    if not folder and not kept.keep:
        shutil.rmtree(path, ignore_errors=True)


def _open_journal(path: Path, about: Mapping[str, Any], log: Log) -> list[Journal]:
    facts = {
        "version": __version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "command": " ".join(sys.argv),
        "cwd": os.getcwd(),
        **about,
    }

    def on_failure(reason: str) -> None:
        log(logging.WARNING, f"{path}: {reason}; the journal ends here")

    try:
        return [Journal(path, facts, on_failure)]
    except OSError as error:
        log(logging.WARNING, f"{path}: no journal ({error.strerror})")
        return []
