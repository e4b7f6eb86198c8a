"""Attributes that every OTLP reader accepts: cached names, and values of the allowed types."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Characters of a text. Jaeger's Badger refuses a span with a value of 65,000 bytes or more.
MAX_TEXT = 8_192


class Names(dict[str, str]):
    """Names with a prefix, each concatenated once: there are few, for thousands of spans."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __missing__(self, key: str) -> str:
        name = self[key] = self._prefix + key
        return name


NO_PREFIX = Names("")


def valid_attributes(attributes: Mapping[str, Any], names: Names = NO_PREFIX) -> dict[str, Any]:
    """Return the attributes that all OTLP readers accept, under their full names.

    None, non-finite numbers and empty sequences, which have no element type, are left out.
    """
    valid = {}
    for key, value in attributes.items():
        kind = type(value)
        if kind is int or (kind is float and math.isfinite(value)):
            valid[names[key]] = value
        elif isinstance(value, str):
            valid[names[key]] = valid_text(value)
        elif _is_valid(value):
            valid[names[key]] = value
    return valid


def _is_valid(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return True
    if isinstance(value, Sequence):
        return len(value) > 0 and all(map(_is_valid, value))
    return value is not None


def valid_text(text: str) -> str:
    """Return a text cut to `MAX_TEXT`, with lone surrogates escaped.

    Python keeps the undecodable bytes of a file name as lone surrogates. Protobuf refuses these,
    and one in a status would lose the whole batch of spans.
    """
    if len(text) <= MAX_TEXT and text.isascii():
        return text
    return text[:MAX_TEXT].encode("utf-8", "backslashreplace").decode()
