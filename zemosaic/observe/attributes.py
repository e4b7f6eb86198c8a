"""Attributes as they may be sent: names put together once, values that all readers take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Characters of a text. Jaeger's Badger refuses a span with a value of 65,000 bytes or more.
LONGEST = 8_192


class Names(dict[str, str]):
    """Names behind a prefix, each put together once: there are few, and spans by the thousand."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __missing__(self, key: str) -> str:
        name = self[key] = self._prefix + key
        return name


BARE = Names("")


def valid(attributes: Mapping[str, Any], names: Names = BARE) -> dict[str, Any]:
    """Those attributes that all OTLP readers take alike, by their names.

    Without None, numbers that are not finite and empty sequences (which have no element type).
    """
    found = {}
    for key, value in attributes.items():
        kind = type(value)
        if kind is int or (kind is float and math.isfinite(value)):
            found[names[key]] = value
        elif isinstance(value, str):
            found[names[key]] = sent_text(value)
        elif _says_something(value):
            found[names[key]] = value
    return found


def sendable(column: Sequence[Any]) -> bool:
    """Whether `valid` would leave values as they are, and all are of one type."""
    kind = type(column[0])
    if {*map(type, column)} != {kind}:
        return False
    if kind is float:
        return math.isfinite(sum(column))  # else one is not, or they are beyond all measure
    if issubclass(kind, str):
        return all(map(str.isascii, column)) and max(map(len, column)) <= LONGEST
    return kind is int or all(map(_says_something, column))


def _says_something(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return True
    if isinstance(value, Sequence):
        return len(value) > 0 and all(map(_says_something, value))
    return value is not None


def sent_text(text: str) -> str:
    """A text that can be sent: cut, and with the odd bytes of file names spelt out.

    Python keeps bytes that are no Unicode as halves of characters, and one of these in a status
    would cost the whole batch of spans that it is sent with.
    """
    if len(text) <= LONGEST and text.isascii():
        return text
    return text[:LONGEST].encode("utf-8", "backslashreplace").decode()
