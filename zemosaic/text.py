"""Text from file names and headers, as it may be shown in a terminal, and in its commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

# C0, DEL and C1, which terminals obey, and the marks that reverse the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return a text in one line, with control characters as ``\x1b``."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shell_command(words: Sequence[str]) -> str:
    """Return words as a command that can be pasted into the shell of this system."""
    # Neither cmd nor programs on Windows know single quotes.
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
