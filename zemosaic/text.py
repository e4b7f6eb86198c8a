"""Text for people: names as they may be shown in a terminal, and numbers with errors."""

from __future__ import annotations

import math
import re

#: Powers of ten of an error up to which it is written without one.
LARGEST_EXPONENT = 7
# C0, DEL and C1, which terminals obey, and the marks that reverse the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return a text in one line, with control characters as ``\x1b``."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def with_error(value: float, error: float) -> str:
    """Return a value with its error in two significant digits, as ``1.1120 ± 0.0073``.

    Very large and small ones share a power of ten, as ``(3.12 ± 0.20)e-18``. A value without a
    known error has four digits; one that is not finite is "unknown".
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
    power = max(exponent, int(f"{value:.1e}".partition("e")[2]))
    scaled = with_error(value / 10.0**power, error / 10.0**power)
    return f"({scaled})e{power:+03d}"
