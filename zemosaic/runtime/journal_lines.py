"""The lines of a journal: events and other entries as JSON, each with a checksum.

The checksum, of all bytes before it, is the last member of the object: ``,"crc":"89abcdef"}``.
Earlier versions wrote none.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

import orjson

from .events import Event, JobEnded, JobError

_KINDS: dict[str, type] = {kind.__name__: kind for kind in get_args(Event)}
# First bytes of lines written by `json`, which must read them; earlier versions used only `json`.
_JSON_PREFIXES = (b" ", b'{"kind":"about"')
# Names of fields in journals of version 0.2.1 and earlier.
_RENAMED = {"stages": "step_times", "part": "step", "running_parts": "running_steps"}
_CHECKSUM = re.compile(rb',"crc":"([0-9a-f]{8})"}\s*\Z')
_CHECKSUM_SIZE = len(b',"crc":"89abcdef"}\n')
#: Names of the fields of `JobEnded` in journals.
JOB_FIELDS = {*(item.name for item in fields(JobEnded)), "stages"}


class DamagedLineError(ValueError):
    """A line is not as it was written."""


def encode_line(entry: Mapping[str, Any]) -> bytes:
    """Return the line of an entry, which has at least one field."""
    body = _serialize(entry)[:-1]
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def _serialize(entry: Mapping[str, Any]) -> bytes:
    """Serialize with orjson (5 × faster); fall back to json if orjson cannot.

    It cannot serialize surrogates (Python's form of file names outside UTF-8), integers over 64
    bits (such as the trace's id) and non-finite floats.
    """
    try:
        line = orjson.dumps(entry, _to_plain)
    except TypeError:
        return b" " + _encode_json(entry).encode()
    # orjson writes null for a non-finite float. Most events hold one None, their error.
    nulls = line.count(b"null")
    if nulls > (entry.get("error", "") is None):
        own_nulls = sum(value is None for value in entry.values())
        if nulls > own_nulls:
            return b" " + _encode_json(entry).encode()
    return line


def _to_plain(value: Any) -> Any:
    """Return an error, a NumPy scalar or an array as a value for JSON."""
    if isinstance(value, JobError):
        return vars(value)
    return value.tolist()


_encode_json = json.JSONEncoder(separators=(",", ":"), default=_to_plain).encode


def decode_line(line: bytes, needs_checksum: bool = False) -> tuple[dict[str, Any], bool]:
    """Return the content of a line, and whether it has a checksum.

    Raises
    ------
    DamagedLineError
        The line is torn, its checksum is wrong, or it has none and needs one.
    """
    found = _CHECKSUM.search(line, max(0, len(line) - _CHECKSUM_SIZE))
    if found is not None:
        if zlib.crc32(memoryview(line)[: found.start()]) != int(found[1], 16):
            raise DamagedLineError("wrong checksum")
    elif needs_checksum:
        raise DamagedLineError("no checksum")
    entry = _parse(line)
    if type(entry) is not dict:
        raise DamagedLineError("not an object")
    if found is not None:
        del entry["crc"]
    return entry, found is not None


def _parse(line: bytes) -> Any:
    # orjson would read an integer over 64 bits as a float, so it must not read lines of json.
    if not line.startswith(_JSON_PREFIXES):
        try:
            return orjson.loads(line)
        except ValueError:  # NaN, as earlier versions wrote it, or torn
            pass
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DamagedLineError(str(error)) from None


def decode_event(kind: str, entry: dict[str, Any]) -> Event | None:
    """Return the event of a line; None if its kind or its fields are not known."""
    try:
        if entry.get("error") is not None:
            entry["error"] = JobError(**entry["error"])
        values = {_RENAMED.get(name, name): value for name, value in entry.items()}
        event: Event = _KINDS[kind](**values)
    except (AttributeError, KeyError, TypeError):
        return None
    return event


def decode_spans(entry: dict[str, Any]) -> set[int]:
    """Return the numbers of delivered spans; none if the line is not as `ranges` makes it."""
    try:
        return {number for first, last in entry["spans"] for number in range(first, last + 1)}
    except (KeyError, TypeError, ValueError):
        return set()
