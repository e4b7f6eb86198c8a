"""Titles of stages and names of jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGE_TITLES = {
    "scan": "reading headers",
    "prepare": "preparing tiles",
    "tiles": "making previews",
    "overlap": "finding overlaps",
    "pairs": "measuring pairs",
    "solve": "solving",
    "apply": "writing corrected tiles",
}
FAILED_OUTCOMES = ("failed", "timeout", "crashed")


def stage_title(stage: str) -> str:
    """Return the title of a stage."""
    return STAGE_TITLES.get(stage, stage)


def job_name(stage: str, index: int, attributes: Mapping[str, Any]) -> str:
    """Return the name of a job: its pair of tiles, or its tile."""
    if stage == "pairs":
        return f"pair {index} ({attributes.get('name_i')}, {attributes.get('name_j')})"
    return str(attributes.get("name", f"{stage_title(stage)} {index}"))
