"""Files that stay with the workers that make them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from zemosaic.errors import UserError
from zemosaic.runtime.kept_files import (
    PART,
    FileLostError,
    KeptFile,
    KeptFiles,
    Origins,
    PeerLostError,
    find_file,
    folder_of,
    kept_files,
    new_file,
    using,
)
from zemosaic.runtime.submission import Batch, Job

FetchPart = Callable[[str, str, int], bytes]


def make(content: bytes) -> None:
    with new_file(KeptFile("a")) as path:
        path.write_bytes(content)


def fail_half_way() -> None:
    with new_file(KeptFile("a")) as path:
        path.write_bytes(b"half")
        raise ZeroDivisionError


def peers(files: dict[str, bytes], calls: list[str]) -> FetchPart:
    """Return a function that reads the file of each address, and notes whom it asks."""

    def fetch_part(address: str, _name: str, offset: int) -> bytes:
        calls.append(address)
        if address not in files:
            raise PeerLostError(address)
        return files[address][offset : offset + PART]

    return fetch_part


def no_peer(address: str, _name: str, _offset: int) -> bytes:
    raise AssertionError(f"{address} is asked")


@pytest.mark.parametrize("size", [0, 10, PART - 1, PART, PART + 1, 2 * PART])
def test_a_file_is_copied_whole(tmp_path: Path, size: int) -> None:
    """Whatever its size in parts; the worker then has it, and asks nobody again."""
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    files = KeptFiles(tmp_path / "kept", peers({"p": content}, []), Origins({"a": ["p"]}))
    assert files.find("a").read_bytes() == content
    assert files.new == ["a"]
    files.fetch_part = no_peer
    assert files.find("a").read_bytes() == content
    assert [path.name for path in files.folder.iterdir()] == ["a"]


def test_a_silent_worker_is_asked_once_in_a_task(tmp_path: Path) -> None:
    """Its files come from others, or are made again; each time-out would cost seconds."""
    asked: list[str] = []
    addresses = {"a": ["dead", "p"], "b": ["dead"]}
    calls = {"b": (make, (b"made",))}
    files = KeptFiles(tmp_path, peers({"p": b"copy"}, asked), Origins(addresses, calls))
    with using(files):
        assert files.find("a").read_bytes() == b"copy"
        Path(files.folder / "a").unlink()
        files.origins = Origins(addresses, {"a": (make, (b"made",))})
        assert files.find("a").read_bytes() == b"copy"
    assert asked == ["dead", "p", "p"]


def test_a_file_that_no_worker_has_is_made_again(tmp_path: Path) -> None:
    """By the call that made it, or not at all without one: then its name is kept."""
    files = KeptFiles(tmp_path, peers({}, []), Origins({"a": ["dead"]}, {"a": (make, (b"made",))}))
    with using(files):
        assert Path(find_file(KeptFile("a"))).read_bytes() == b"made"
        assert folder_of(KeptFile("a")) == tmp_path
        with pytest.raises(FileLostError, match="b: was lost with the worker that had it"):
            find_file(KeptFile("b"))
    assert (files.new, files.lost) == (["a"], ["b"])


def test_half_a_file_has_no_name(tmp_path: Path) -> None:
    """Neither a peer that dies meanwhile, nor a call that fails, leaves anything."""

    def fetch_part(_address: str, _name: str, offset: int) -> bytes:
        if offset:
            raise PeerLostError
        return bytes(PART)

    files = KeptFiles(tmp_path, fetch_part, Origins({"a": ["p"]}))
    with pytest.raises(FileLostError):
        files.find("a")
    with using(files), pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert (files.new, list(tmp_path.iterdir())) == ([], [])


def test_a_copy_that_cannot_be_written_names_the_folder(tmp_path: Path) -> None:
    """In one line, and no other worker is asked, whose file would not fit either."""
    (tmp_path / "file").touch()
    files = KeptFiles(tmp_path / "file", no_peer, Origins({"a": ["p", "q"]}))
    with pytest.raises(UserError, match=f"^{tmp_path}/file: is not writable .*; make room$"):
        files.find("a")


def test_the_files_of_a_batch_are_found_among_its_arguments(tmp_path: Path) -> None:
    """Names stay kept files when they are sent to a worker; other arguments are none."""
    jobs = [Job(k, make, (KeptFile(f"{k}"), "text", tmp_path, (KeptFile("x"),))) for k in (1, 2)]
    _, arguments = pickle.loads(pickle.dumps(Batch(jobs, 0).call))
    assert kept_files(arguments) == {"1", "2", "x"}
    assert kept_files(Batch(jobs[:1], 0).call[1]) == {"1", "x"}
    assert find_file("text") == "text"
    with new_file(tmp_path / "plain") as path:
        assert path == tmp_path / "plain"
