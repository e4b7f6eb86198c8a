"""The spans of a run's trace file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def spans(folder: Path) -> list[dict[str, Any]]:
    """Return all spans of a run's trace file, with their attributes as the mapping "known"."""
    found = []
    for line in (folder / "trace.jsonl").read_text().splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    values = {a["key"]: a["value"] for a in span["attributes"]}
                    span["known"] = {k: next(iter(v.values())) for k, v in values.items()}
                    found.append(span)
    return found
