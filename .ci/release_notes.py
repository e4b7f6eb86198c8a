"""Print the section of CHANGELOG.md for a tag, which must name the version of the package.

python .ci/release_notes.py v0.3.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Print the notes of the release, or one line about what is missing."""
    version = sys.argv[1].removeprefix("v")
    source = (ROOT / "zemosaic" / "_version.py").read_text(encoding="utf-8")
    if f'__version__ = "{version}"' not in source:
        print(f"{sys.argv[1]}: zemosaic/_version.py has another version", file=sys.stderr)
        return 1
    notes = section((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    if not notes:
        print(f"CHANGELOG.md has no section [{version}] with a date", file=sys.stderr)
        return 1
    print(notes)
    return 0


def section(changelog: str, version: str) -> str:
    """Return the text below the heading of a dated version, up to that of the next one."""
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$"
    found = re.search(rf"{heading}\n(.*?)(?=^## \[|\Z)", changelog, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


if __name__ == "__main__":
    sys.exit(main())
