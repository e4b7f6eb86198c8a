"""Files that stay with the workers of a Dask cluster, and how others read them."""

from __future__ import annotations

import asyncio
import pickle
import shutil
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from .kept_files import PART, FetchPart, PeerLostError

PART_TIME = 5.0  # seconds until a worker has sent a part of a file

_folders: dict[str, Path] = {}  # at a worker, by run


def open_folder(run_id: str, dask_worker: Any) -> Path:
    """Return the folder of a run's files at a worker; Dask removes it with the worker."""
    folder = Path(dask_worker.local_directory) / f"zemosaic-{run_id}"
    return _folders.setdefault(run_id, folder)


def close_folder(run_id: str) -> None:
    """Remove the files of a run at this worker."""
    if (folder := _folders.pop(run_id, None)) is not None:
        shutil.rmtree(folder, ignore_errors=True)


async def read_part(run_id: str, name: str, offset: int) -> bytes | None:
    """Return a part of a file at this worker; None if it has no such file."""
    folder = _folders.get(run_id)
    return None if folder is None else await asyncio.to_thread(_read, folder / name, offset)


def _read(path: Path, offset: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(PART)
    except OSError:
        return None


def from_peers(run_id: str, dask_worker: Any) -> FetchPart:
    """Return a function for threads of a worker that reads the files of others."""

    async def ask(address: str, name: str, offset: int) -> Any:
        arguments = pickle.dumps((run_id, name, offset))
        peer = dask_worker.rpc(address)
        return await peer.run(function=pickle.dumps(read_part), args=arguments)

    def fetch_part(address: str, name: str, offset: int) -> bytes:
        loop = dask_worker.loop.asyncio_loop
        answer = wait_for(ask(address, name, offset), loop)
        return checked(answer["result"] if answer["status"] == "OK" else None, address)

    return fetch_part


def wait_for(coroutine: Any, loop: asyncio.AbstractEventLoop) -> Any:
    """Return the result of a coroutine on a loop; raise `PeerLostError` without an answer."""
    answer = asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, PART_TIME), loop)
    try:
        return answer.result(2 * PART_TIME)  # the loop itself may be stuck
    except (Exception, CancelledError) as error:  # of many kinds, if the peer is stopped or dead
        raise PeerLostError(str(error)) from error


def checked(part: bytes | None, address: str) -> bytes:
    """Return a part of a file; raise `PeerLostError` if there is none."""
    if part is None:
        raise PeerLostError(f"{address} has no such file")
    return part
