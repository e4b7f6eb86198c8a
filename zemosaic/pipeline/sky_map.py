"""Tiles and pairs on the sky: their places, and a map of them by matplotlib."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from astropy.wcs import WCS

from ..errors import UserError
from ..photometry.preview.grid import make_grid
from .seams import seam_steps
from .solution import PhaseSolution

#: Classes of the step of a pair: label, colour (Okabe & Ito), and largest step in units of the
#: noise.
STEP_CLASSES = (
    ("below 1", "#0072b2", 1.0),
    ("1 to 3", "#e69f00", 3.0),
    ("above 3", "#d55e00", math.inf),
)


def step_class(step: float) -> tuple[str, str, float]:
    """Return the class of a step."""
    return next(entry for entry in STEP_CLASSES if step <= entry[2])


def sky_wcs(solution: PhaseSolution) -> WCS:
    """Return a WCS about the centre of all tiles; its pixels are cells of the previews."""
    return make_grid(list(solution.tiles.values()), solution.settings.block).wcs


def sky_corners(solution: PhaseSolution) -> dict[int, np.ndarray]:
    """Return the corners ``(4, 2)`` of the tiles in pixels of `sky_wcs`, by tile index."""
    if not solution.tiles:
        return {}
    wcs = sky_wcs(solution)
    corners = {index: wcs.wcs_world2pix(tile.corners, 0) for index, tile in solution.tiles.items()}
    return {index: places for index, places in corners.items() if np.isfinite(places).all()}


def plot_sky(solution: PhaseSolution, axes: Any = None) -> Any:
    """Draw the map, see `PhaseSolution.plot_sky`."""
    corners = sky_corners(solution)
    if not corners:
        raise UserError("no tile has a place on the sky, so there is no map")
    try:
        from matplotlib import pyplot
        from matplotlib.collections import LineCollection, PolyCollection
    except ImportError:
        raise UserError("plot_sky needs matplotlib; pip install 'zemosaic[plot]'") from None
    wcs = sky_wcs(solution)
    if axes is None:
        axes = pyplot.figure(layout="constrained").add_subplot(projection=wcs)
    # By way of the sky, so that axes with any celestial WCS will do.
    transform = axes.get_transform(wcs) if hasattr(axes, "coords") else axes.transData
    suspects = set(solution.suspects)
    colours = ["#cc79a7" if index in suspects else "#8a939c" for index in corners]
    outlines = PolyCollection(
        list(corners.values()), facecolors="none", edgecolors=colours, transform=transform
    )
    axes.add_collection(outlines)
    _, after = seam_steps(solution)
    for entry in STEP_CLASSES:
        lines = [
            [corners[index].mean(axis=0) for index in (record.i, record.j)]
            for record, step in zip(solution.records, after, strict=True)
            if record.i in corners and record.j in corners
            and np.isfinite(step).any() and step_class(float(np.nanmax(step))) == entry
        ]  # fmt: skip
        if lines:
            label = f"step {entry[0]} × noise"
            axes.add_collection(
                LineCollection(lines, colors=entry[1], label=label, transform=transform)
            )
    axes.set(aspect="equal", xlabel="right ascension", ylabel="declination")
    if wcs is getattr(axes, "wcs", None):
        points = np.concatenate(list(corners.values()))
        axes.set_xlim(points[:, 0].min(), points[:, 0].max())
        axes.set_ylim(points[:, 1].min(), points[:, 1].max())
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=3, fontsize="small")
    return axes
