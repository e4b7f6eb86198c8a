"""The figures of the run page as PNG, for papers and forums, by matplotlib (extra ``plot``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .charts import TITLES, channel_names, worker_lanes
from .data import Story
from .images import Pictures, stretched_rgb

# Okabe & Ito's colours, told apart by everybody; the page has the same.
BLUE, SKY, GREEN, ORANGE, RED, PURPLE, GREY = (
    "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#8a939c",
)  # fmt: skip
CHANNELS = {1: (BLUE,), 3: (RED, GREEN, BLUE)}
DPI = 150


def write_figures(story: Story, pictures: Pictures | None, folder: Path) -> list[Path]:
    """Write all figures that the run has something for; their paths.

    Raises
    ------
    UserError
        matplotlib is not installed, or the folder cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("--png needs matplotlib; pip install 'zemosaic[plot]'") from None
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    written = []
    for name, size, draw in _figures(story, pictures):
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        draw(figure)
        path = folder / f"{name}.png"
        figure.savefig(path)
        written.append(path)
    return written


def _figures(
    story: Story, pictures: Pictures | None
) -> Iterator[tuple[str, tuple[float, float], Callable[[Any], None]]]:
    if pictures is not None:
        yield "mosaic", (10, 5), lambda figure: _mosaic(figure, pictures)
        if np.isfinite(pictures.seams_before).any():
            yield "seams", (10, 5), lambda figure: _seams(figure, pictures)
    if any(tile.place for tile in story.tiles):
        yield "sky", (7, 7), lambda figure: _sky(figure, story)
    if story.jobs:
        lanes = len(worker_lanes(story.jobs)[0])
        yield "time", (9, 1.8 + 0.3 * lanes), lambda figure: _time(figure, story)
    if story.solved:
        yield "corrections", (9, 6), lambda figure: _corrections(figure, story)
        yield "residuals", (9, 4), lambda figure: _residuals(figure, story)


def _mosaic(figure: Any, pictures: Pictures) -> None:
    for axes, picture, title in _side_by_side(figure, stretched_rgb(pictures)):
        axes.imshow(picture, origin="lower")
        axes.set_title(title)


def _seams(figure: Any, pictures: Pictures) -> None:
    maps = [m for m in (pictures.seams_before, pictures.seams_after) if m is not None]
    known = maps[0][np.isfinite(maps[0])]
    top = float(np.percentile(known, 99)) if len(known) else 1.0
    shown = None
    for axes, values, title in _side_by_side(figure, maps):
        shown = axes.imshow(np.sqrt(values), origin="lower", cmap="cividis", vmin=0, vmax=top**0.5)
        axes.set_title(f"disagreement {title}")
    bar = figure.colorbar(shown, ax=figure.axes, label="spread among tiles (ADU)", shrink=0.8)
    ticks = np.linspace(0, top**0.5, 5)
    bar.set_ticks(ticks, labels=[f"{t * t:.3g}" for t in ticks])


def _side_by_side(figure: Any, values: list[Any]) -> Iterator[tuple[Any, Any, str]]:
    for number, (value, title) in enumerate(zip(values, ("before", "after"), strict=False), 1):
        axes = figure.add_subplot(1, len(values), number)
        axes.set_axis_off()
        yield axes, value, title


def _sky(figure: Any, story: Story) -> None:
    from matplotlib.collections import LineCollection, PolyCollection

    axes = figure.add_subplot()
    feet = {t.index: np.array(t.footprint()) for t in story.tiles if t.place}
    groups = {t.index: k for k, tiles in enumerate(story.groups) for t in tiles}
    for label, colour, chosen in (
        ("tiles", GREY, [t for t in story.tiles if t.pairs and groups.get(t.index) == 0]),
        ("tiles of other groups", PURPLE,
         [t for t in story.tiles if t.pairs and groups.get(t.index, 0) > 0]),
        ("tiles that stand alone", RED, [t for t in story.tiles if not t.pairs]),
    ):  # fmt: skip
        corners = [feet[tile.index] for tile in chosen if tile.index in feet]
        if corners:
            axes.add_collection(
                PolyCollection(corners, facecolors="none", edgecolors=colour, label=label)
            )
    for label, colour, low, high in (
        ("pairs within 3 standard errors", BLUE, -1.0, 3.0),
        ("3 to 5", ORANGE, 3.0, 5.0),
        ("more than 5", RED, 5.0, math.inf),
        ("not solved", SKY, math.nan, math.nan),
    ):
        lines = [
            (feet[p.i].mean(axis=0), feet[p.j].mean(axis=0))
            for p in story.pairs
            if p.outcome == "measured" and p.i in feet and p.j in feet
            and (math.isnan(p.worst) if math.isnan(low) else low < p.worst <= high)
        ]  # fmt: skip
        if lines:
            width = 0.4 if len(story.pairs) > 1000 else 1.2
            axes.add_collection(
                LineCollection(lines, colors=colour, linewidths=width, label=label, zorder=3)
            )
    axes.autoscale()
    axes.set_aspect("equal")
    axes.set(xlabel="← east (degrees)", ylabel="(degrees) north →")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")


def _time(figure: Any, story: Story) -> None:
    axes = figure.add_subplot()
    names, rows = worker_lanes(story.jobs)
    stages = list(dict.fromkeys(job.stage for job in story.jobs))
    colours = (SKY, GREEN, BLUE, PURPLE)
    for stage in (*stages, None):
        lost = [job.outcome not in ("measured", "rejected") for job in story.jobs]
        some = [(job, row) for job, row, bad in zip(story.jobs, rows, lost, strict=True)
                if (bad if stage is None else job.stage == stage and not bad)]  # fmt: skip
        if not some:
            continue
        begun = np.array([story.since(job.started_ns) for job, _ in some])
        took = np.array([(job.ended_ns - job.started_ns) / 1e9 for job, _ in some])
        axes.barh([row for _, row in some], took, left=begun, height=0.8,
                  color=RED if stage is None else colours[stages.index(stage) % 4],
                  label="failed" if stage is None else TITLES.get(stage, stage))  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="seconds since the run began")
    figure.legend(loc="outside upper center", ncols=5, fontsize="small")


def _corrections(figure: Any, story: Story) -> None:
    known = [tile for tile in story.tiles if tile.gain]
    for number, (what, label) in enumerate((("gain", "gain"), ("offset", "offset (ADU)")), 1):
        axes = figure.add_subplot(2, 1, number)
        colours = CHANNELS.get(story.channels, (BLUE, ORANGE, GREEN, PURPLE, RED))
        for c, name in enumerate(channel_names(story.channels)):
            axes.errorbar(
                [tile.index for tile in known],
                [getattr(tile, what)[c] for tile in known],
                [getattr(tile, what + "_err")[c] for tile in known],
                fmt=".", color=colours[c % len(colours)], label=name,
            )  # fmt: skip
        axes.set(xlabel="tile", ylabel=label)
        if story.channels > 1 and number == 1:
            axes.legend()


def _residuals(figure: Any, story: Story) -> None:
    grid = np.linspace(-6, 6, 200)
    for number, (name, label) in enumerate((("level_chi", "level"), ("gain_chi", "gain")), 1):
        values = [x for pair in story.pairs for x in getattr(pair, name) if math.isfinite(x)]
        axes = figure.add_subplot(1, 2, number)
        edges = np.linspace(-6, 6, 49)
        axes.hist(np.clip(values, -6, 6), edges, color=SKY, label="pairs")
        normal = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
        axes.plot(grid, len(values) * (edges[1] - edges[0]) * normal, color=ORANGE,
                  label="if the errors were exact")  # fmt: skip
        axes.set(xlabel=f"{label} difference left (standard errors)", ylabel="pairs")
        axes.legend(fontsize="small")
