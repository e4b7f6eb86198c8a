"""Text for people: names and commands for a terminal, and numbers with errors."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

#: Powers of ten of an error up to which it is written without one.
LARGEST_EXPONENT = 7
#: Meaningful decimals of a float64.
MOST_DECIMALS = 15
# C0, DEL and C1, which terminals obey, and the marks that reverse the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return a text in one line, with control characters as ``\x1b``."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def with_error(value: float, error: float) -> str:
    """Return a value with its error in two significant digits, as ``1.1120 ± 0.0073``.

    Very large and small ones share a power of ten, as ``(3.12 ± 0.20)e-18``. A value without a
    known error has four digits; a value that is not finite is "unknown".
    """
    if not math.isfinite(value):
        return "unknown"
    if not (math.isfinite(error) and error > 0):
        return f"{value:.4g}"
    exponent = int(f"{error:.1e}".partition("e")[2])
    if -LARGEST_EXPONENT <= exponent <= LARGEST_EXPONENT:
        places = 1 - exponent
        value, error = round(value, places), round(error, places)
        return f"{value:.{max(0, places)}f} ± {error:.{max(0, places)}f}"
    power = max(exponent, int(f"{value:.1e}".partition("e")[2])) if value else exponent
    places = power - exponent + 1
    if places > MOST_DECIMALS:
        return f"{value:.15g} ± {error:.1e}"
    value, error = value / 10.0**power, error / 10.0**power
    return f"({value:.{places}f} ± {error:.{places}f})e{power:+03d}"


def two_digits(value: float) -> str:
    """Return a number in two significant digits, with a power of ten only far from 1."""
    if not math.isfinite(value):
        return "unknown"
    if value == 0:
        return "0"
    exponent = int(f"{value:.1e}".partition("e")[2])
    if abs(exponent) > LARGEST_EXPONENT:
        return f"{value:.1e}"
    return f"{round(value, 1 - exponent):.{max(0, 1 - exponent)}f}"


def shell_command(words: Sequence[str]) -> str:
    """Return words as a command to paste into the shell of this system."""
    # Neither cmd nor programs on Windows know single quotes.
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
