"""Warnings and log records of libraries during a task, which go to the log of the run.

astropy prints records of its logger to standard output, which belongs to the results. While a
thread collects messages, its own records and warnings are kept from all handlers; messages of
other threads pass, and nothing changes after the last thread has stopped collecting.
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

#: Loggers with handlers of their own.
LOGGERS = ("astropy",)

_DETAIL = re.compile(r"'[^']*'|\S*[\d/\\]\S*")  # numbers, names of files and quoted values


class LibraryMessage(NamedTuple):
    """A warning or log record: the logger or the class of the warning, and a line of text."""

    source: str
    text: str

    @property
    def kind(self) -> str:
        """The message without its details, equal for all files with the same peculiarity."""
        return f"{self.source}: {_DETAIL.sub('#', self.text)}"

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


@contextmanager
def collect_library_messages() -> Iterator[list[LibraryMessage]]:
    """Collect the messages of this thread, instead of showing them, in the yielded list."""
    outer = getattr(_local, "messages", None)
    messages: list[LibraryMessage] = []
    _local.messages = messages
    _diversion.enter()
    try:
        yield messages
    finally:
        _diversion.leave()
        _local.messages = outer


class _Diversion(logging.Filter):
    """Keeps the records and the warnings of collecting threads from their usual destinations.

    It takes the place of `warnings.showwarning`, and is a filter of loggers.
    """

    collects = True  # read by code that would otherwise ignore a warning

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._collecting = 0  # threads
        self._show: Any = warnings.showwarning  # as the application has set it

    def enter(self) -> None:
        """Begin, also for the libraries that were imported since the last thread did."""
        with self._lock:
            self._collecting += 1
            if warnings.showwarning != self:
                self._show = warnings.showwarning
                warnings.showwarning = self
            for logger in _existing_loggers():
                logger.addFilter(self)

    def leave(self) -> None:
        """End with the last thread."""
        with self._lock:
            self._collecting -= 1
            if self._collecting == 0:
                if warnings.showwarning == self:
                    warnings.showwarning = self._show
                for logger in _existing_loggers():
                    logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record may pass to the handlers."""
        return not _keep(record.name, record.getMessage())

    def __call__(
        self, message: Any, category: Any, filename: str, lineno: int, *more: Any, **options: Any
    ) -> None:
        """Show a warning as before, if its thread does not collect."""
        if not _keep(category.__name__, str(message)):
            self._show(message, category, filename, lineno, *more, **options)


def _existing_loggers() -> Iterator[logging.Logger]:
    """Yield the loggers that exist: astropy has to create its own, of its own class."""
    for name in LOGGERS:
        if isinstance(logging.root.manager.loggerDict.get(name), logging.Logger):
            yield logging.getLogger(name)


_local = threading.local()
_diversion = _Diversion()


def _keep(source: str, text: str) -> bool:
    """Append a message to the list of this thread, and return whether it has one."""
    messages = getattr(_local, "messages", None)
    if messages is None:
        return False
    messages.append(LibraryMessage(source, " ".join(text.split())))
    return True
