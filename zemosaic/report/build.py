"""Build the report of a run from its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..observe.autopsy import examine_runs
from ..observe.endpoint import trace_url
from ..runtime.run_folder import RunFolder
from .collect import JobCollector
from .data import RunData
from .gather import gather_run
from .images import Mosaic, coadd_mosaic, mosaic_pictures, seam_pictures, with_pictures
from .light import light_images
from .page import PageImages, write_page
from .survey import fetch_survey


def load_run(folder: Path) -> tuple[RunData, Mosaic | None]:
    """Return the data of the last run in a folder and its mosaic, None without thumbnails.

    Raises
    ------
    UserError
        The folder has no journal of a run.
    """
    autopsy, records = examine_runs(folder, JobCollector)
    run = gather_run(autopsy, records if autopsy.record.about.get("resume") else records[-1:])
    mosaic = coadd_mosaic(folder, run)
    return run, mosaic and with_pictures(mosaic, folder)


def write_report(folder: Path, png: bool = False, survey: str = "") -> list[Path]:
    """Write the report of the run in a folder, and return the paths.

    Parameters
    ----------
    folder : pathlib.Path
        The run folder.
    png : bool
        Also write the figures.
    survey : str
        Survey behind the map, fetched from the network; empty for none.

    Raises
    ------
    UserError
        The folder has no journal of a run, or the survey has no picture.
    """
    run, mosaic = load_run(folder)
    images = _page_images(run, mosaic)
    if survey:
        images = replace(images, survey=fetch_survey(run, survey))
    paths = [write_page(run, images, _trace_link(run))]
    if png:
        from .figures import write_figures

        paths += write_figures(run, mosaic, RunFolder(folder).figures)
    return paths


def _page_images(run: RunData, mosaic: Mosaic | None) -> PageImages:
    lights = list(light_images(run))
    if mosaic is None:
        return PageImages(lights=lights)
    return PageImages(mosaic_pictures(mosaic), seam_pictures(mosaic), mosaic.seam_limit, lights)


def _trace_link(run: RunData) -> str:
    trace = run.autopsy.record.about.get("trace", {})
    if not trace.get("endpoint"):
        return ""
    return trace_url(trace["endpoint"], f"{trace['id']:032x}")
