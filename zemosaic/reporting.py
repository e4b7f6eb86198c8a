"""A run folder -> its page: the story that observers tell, with the pictures that they cannot."""

from __future__ import annotations

from pathlib import Path

from zemosaic.jobs import measured_again
from zemosaic.observe.autopsy import examine
from zemosaic.observe.endpoint import trace_url
from zemosaic.observe.report import Images, write_report
from zemosaic.observe.report_data import Story, gather
from zemosaic.pictures import Pictures, draw, mosaic_pngs, seam_pngs
from zemosaic.runtime import journal
from zemosaic.runtime.folder import holder


def tell(folder: Path) -> tuple[Story, Pictures | None]:
    """What the run folder tells, and the mosaic as arrays, if there are thumbnails.

    Raises
    ------
    UserError
        No run has ever been there.
    """
    found = examine(folder, holder(folder))
    resumed = found.record.about.get("resume")
    story = gather(found, journal.read(folder) if resumed else [found.record], measured_again)
    return story, draw(folder, story)


def report(folder: Path, png: bool = False) -> list[Path]:
    """Write the page of the run in a folder, and its figures as PNG if asked; where they are."""
    story, pictures = tell(folder)
    written = [write_report(story, _images(pictures), _trace(story))]
    if png:
        from zemosaic.plots import write_figures

        written += write_figures(story, pictures, folder / "figures")
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
