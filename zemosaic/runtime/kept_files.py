"""Files that stay on the machine of the worker that makes them, for jobs that need them later.

A job that needs such a file has it from the folder of its worker, or copies it from another worker.
If no worker answers, the call that made it is repeated, which gives the same file. So a dead
worker costs time, and no job waits for one.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from .worker import timed_step

Call = tuple[Callable[..., Any], tuple[Any, ...]]
#: Returns the part of a file at an address from an offset on.
FetchPart = Callable[[str, str, int], bytes]
PART = 1 << 22  # bytes in a message, for which the time-out of an answer is long on any network


class KeptFile(str):
    """The name of a file that stays with the workers of a run, as an argument of a call."""

    __slots__ = ()


class PeerLostError(Exception):
    """A worker does not answer, or does not have a file."""


class FileLostError(Exception):
    """No worker that has a file answers, and the call that makes it is unknown."""


@dataclass(frozen=True)
class Origins:
    """The places of the files that a task needs.

    Parameters
    ----------
    addresses : mapping
        Addresses of the workers that have a file, by its name.
    calls : mapping
        The call that makes a file, by its name; only of files for which it may be necessary.
    """

    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    calls: Mapping[str, Call] = field(default_factory=dict)


@dataclass
class KeptFiles:
    """The files of a task in the folder of its worker.

    Parameters
    ----------
    folder : pathlib.Path
        Created with the first file.
    fetch_part : callable
        Reads files of other workers.
    origins : Origins
        The places of the others.
    new, lost : list of str
        Files brought into the folder by the task, and files it could not find.
    """

    folder: Path
    fetch_part: FetchPart
    origins: Origins
    new: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    _silent: set[str] = field(default_factory=set)

    def find(self, name: str) -> Path:
        """Return the path of a file, copied or made again if it is not in the folder.

        Raises
        ------
        FileLostError
            It cannot be had.
        """
        path = self.folder / name
        if path.exists() or self._copy(name):
            return path
        call = self.origins.calls.get(name)
        if call is None:
            self.lost.append(name)
            raise FileLostError(f"{name}: was lost with the worker that had it")
        function, arguments = call
        function(*arguments)
        return path

    def _copy(self, name: str) -> bool:
        """Copy a file of another worker; return False if no worker with the file answers."""
        for address in self.origins.addresses.get(name, ()):
            if address in self._silent:
                continue
            try:
                with timed_step("fetch"), self.write(name) as path, path.open("wb") as file:
                    while len(part := self.fetch_part(address, name, file.tell())) == PART:
                        file.write(part)
                    file.write(part)
            except PeerLostError:
                self._silent.add(address)  # which would cost the next file another time-out
            except OSError as error:
                problem = error.strerror or error
                raise UserError(f"{self.folder}: is not writable ({problem}); make room") from None
            else:
                return True
        return False

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """Yield a path to write a file at; it gets its name when it is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self.folder)
        os.close(descriptor)
        try:
            yield Path(temporary)
            os.replace(temporary, self.folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self.new.append(name)


_local = threading.local()


@contextmanager
def using(files: KeptFiles) -> Iterator[None]:
    """Use these files in the calls of this thread."""
    before = getattr(_local, "files", None)
    _local.files = files
    try:
        yield
    finally:
        _local.files = before


def find_file(file: str | Path) -> str:
    """Return the path of a file, which may be a `KeptFile`."""
    return str(_local.files.find(file)) if isinstance(file, KeptFile) else str(file)


@contextmanager
def new_file(file: str | Path) -> Iterator[Path]:
    """Yield the path at which to write a file, which may be a `KeptFile`."""
    if isinstance(file, KeptFile):
        with _local.files.write(file) as path:
            yield path
    else:
        yield Path(file)


def folder_of(file: str | Path) -> Path:
    """Return the folder of a file, which may be a `KeptFile`."""
    return _local.files.folder if isinstance(file, KeptFile) else Path(file).parent


def kept_files(arguments: Any) -> set[str]:
    """Return the names of the kept files among arguments, also of the calls of a batch."""
    if isinstance(arguments, KeptFile):
        return {arguments}
    if isinstance(arguments, (list, tuple)):
        return {name for argument in arguments for name in kept_files(argument)}
    return set()
