"""A run folder -> its page: the story that observers tell, with the pictures that they cannot."""

from __future__ import annotations

from pathlib import Path

from ..observe.autopsy import examine
from ..observe.endpoint import trace_url
from ..pipeline.records import decode_measurements
from ..runtime import journal
from ..runtime.run_folder import RunFolder
from .data import Story, gather
from .images import Pictures, draw, mosaic_pngs, seam_pngs
from .page import Images, write_report


def tell(folder: Path) -> tuple[Story, Pictures | None]:
    """What the run folder tells, and the mosaic as arrays, if there are thumbnails.

    Raises
    ------
    UserError
        No run has ever been there.
    """
    found = examine(folder)
    resumed = found.record.about.get("resume")
    story = gather(found, journal.read(folder) if resumed else [found.record], decode_measurements)
    return story, draw(folder, story)


def report(folder: Path, png: bool = False) -> list[Path]:
    """Write the page of the run in a folder, and its figures as PNG if asked; where they are."""
    story, pictures = tell(folder)
    written = [write_report(story, _images(pictures), _trace(story))]
    if png:
        from .figures import write_figures

        written += write_figures(story, pictures, RunFolder(folder).figures)
    return written


def _images(pictures: Pictures | None) -> Images:
    if pictures is None:
        return Images()
    seams, brightest = seam_pngs(pictures)
    return Images(mosaic_pngs(pictures), seams, brightest)


def _trace(story: Story) -> str:
    trace = story.found.record.about.get("trace", {})
    if not trace.get("endpoint"):
        return ""
    return trace_url(trace["endpoint"], f"{trace['id']:032x}")
