"""The lines of a journal: events and other entries as JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any, get_args

import orjson

from .events import Event, JobError

_KINDS: dict[str, type] = {kind.__name__: kind for kind in get_args(Event)}
# First bytes of lines written by `json`, which must read them; earlier versions used only `json`.
_JSON_PREFIXES = (b" ", b'{"kind":"about"')
# Names of fields in journals of version 0.2.1 and earlier.
_RENAMED = {"stages": "step_times", "part": "step", "running_parts": "running_steps"}


def encode_line(entry: Mapping[str, Any]) -> bytes:
    """Serialize with orjson (5 × faster); fall back to json where orjson cannot.

    It cannot serialize surrogates (Python's form of file names outside UTF-8), integers over 64
    bits (such as the trace's id) and non-finite floats.
    """
    try:
        line = orjson.dumps(entry, _to_plain, orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        return _encode_json_line(entry)
    # orjson writes null for a non-finite float. Most events hold one None, their error.
    nulls = line.count(b"null")
    if nulls > (entry.get("error", "") is None):
        own_nulls = sum(value is None for value in entry.values())
        if nulls > own_nulls:
            return _encode_json_line(entry)
    return line


def _encode_json_line(entry: Mapping[str, Any]) -> bytes:
    return b" " + _encode_json(entry).encode() + b"\n"


def _to_plain(value: Any) -> Any:
    """Return an error, a NumPy scalar or an array as a value for JSON."""
    if isinstance(value, JobError):
        return vars(value)
    return value.tolist()


_encode_json = json.JSONEncoder(separators=(",", ":"), default=_to_plain).encode


def decode_line(line: bytes) -> Any:
    """Return the content of a line; raise ValueError if it is torn or empty."""
    # orjson would read an integer over 64 bits as a float, so it must not read lines of json.
    if not line.startswith(_JSON_PREFIXES):
        with contextlib.suppress(ValueError):  # NaN, as earlier versions wrote it, or torn
            return orjson.loads(line)
    return json.loads(line)


def decode_event(kind: str | None, entry: dict[str, Any]) -> Event | None:
    """Return the event of a line; None if its kind or its fields are not known."""
    try:
        if entry.get("error") is not None:
            entry["error"] = JobError(**entry["error"])
        fields = {_RENAMED.get(name, name): value for name, value in entry.items()}
        event: Event = _KINDS[kind or ""](**fields)
    except (KeyError, TypeError):
        return None
    return event


def decode_spans(entry: dict[str, Any]) -> set[int]:
    """Return the numbers of delivered spans; none if the line is not as `ranges` makes it."""
    try:
        return {number for first, last in entry["spans"] for number in range(first, last + 1)}
    except (KeyError, TypeError, ValueError):
        return set()
