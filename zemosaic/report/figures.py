"""Figures of the report as PNG, drawn by matplotlib (extra ``plot``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..observe.progress import stage_title
from .charts import WorkerLanes, worker_lanes
from .data import RunData
from .images import Mosaic, stretch_rgb

# The colours of Okabe & Ito, which everybody can tell apart; the page has similar ones.
BLUE, SKY, GREEN, ORANGE, RED, PURPLE, GREY = (
    "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#8a939c",
)  # fmt: skip
CHANNEL_COLOURS = {1: (BLUE,), 3: (RED, GREEN, BLUE)}
STAGE_COLOURS = (SKY, GREEN, BLUE, PURPLE)
STATES = ("before", "after")
DPI = 150
MAX_CHI = 6.0  # standard errors at the edges of the histograms


@dataclass(frozen=True)
class _Figure:
    """A figure: name of its file, size in inches, and drawing function."""

    name: str
    size: tuple[float, float]
    draw: Callable[[Any], None]


def write_figures(run: RunData, mosaic: Mosaic | None, folder: Path) -> list[Path]:
    """Write the figures for which the run has data, and return their paths.

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
    paths = []
    for item in _figures(run, mosaic):
        figure = Figure(figsize=item.size, dpi=DPI, layout="constrained")
        item.draw(figure)
        path = folder / f"{item.name}.png"
        figure.savefig(path)
        paths.append(path)
    return paths


def _figures(run: RunData, mosaic: Mosaic | None) -> Iterator[_Figure]:
    if mosaic is not None:
        yield _Figure("mosaic", (10, 5), lambda figure: _draw_mosaic(figure, mosaic))
        if np.isfinite(mosaic.seam_limit):
            yield _Figure("seams", (10, 5), lambda figure: _draw_seams(figure, mosaic, run))
    if run.tiles.is_placed.any():
        yield _Figure("sky", (7, 7), lambda figure: _draw_map(figure, run))
    if len(run.jobs):
        height = 1.8 + 0.3 * len(_lanes(run).names)
        yield _Figure("time", (9, height), lambda figure: _draw_times(figure, run))
    if run.solved:
        yield _Figure("corrections", (9, 6), lambda figure: _draw_corrections(figure, run))
        yield _Figure("residuals", (9, 4), lambda figure: _draw_residuals(figure, run))


def _draw_mosaic(figure: Any, mosaic: Mosaic) -> None:
    for axes, rgba, state in _side_by_side(figure, stretch_rgb(mosaic)):
        axes.imshow(rgba, origin="lower")
        axes.set_title(state)


def _draw_seams(figure: Any, mosaic: Mosaic, run: RunData) -> None:
    root = math.sqrt(mosaic.seam_limit)
    for axes, seams, state in _side_by_side(figure, mosaic.seam_maps):
        image = axes.imshow(np.sqrt(seams), origin="lower", cmap="cividis", vmin=0, vmax=root)
        axes.set_title(f"disagreement {state}")
    label = run.in_unit("spread among tiles")
    bar = figure.colorbar(image, ax=figure.axes, label=label, shrink=0.8)
    ticks = np.linspace(0, root, 5)
    bar.set_ticks(ticks, labels=[f"{tick * tick:.3g}" for tick in ticks])


def _side_by_side(figure: Any, images: list[Any]) -> Iterator[tuple[Any, Any, str]]:
    for column, (image, state) in enumerate(zip(images, STATES, strict=False), 1):
        axes = figure.add_subplot(1, len(images), column)
        axes.set_axis_off()
        yield axes, image, state


@dataclass(frozen=True)
class _TileStyle:
    """Tiles of one kind on the map; `shows` takes their numbers of pairs and of their groups."""

    label: str
    colour: str
    shows: Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _PairStyle:
    """Pairs on the map with a residual in standard errors in (low, high]; NaN is unsolved."""

    label: str
    colour: str
    low: float
    high: float

    def shows(self, chi: np.ndarray) -> np.ndarray:
        return np.isnan(chi) if math.isnan(self.low) else (self.low < chi) & (chi <= self.high)


TILE_STYLES = (
    _TileStyle("tiles", GREY, lambda pairs, group: (pairs > 0) & (group == 0)),
    _TileStyle("tiles of other groups", PURPLE, lambda pairs, group: (pairs > 0) & (group > 0)),
    _TileStyle("isolated tiles", RED, lambda pairs, group: pairs == 0),
)
PAIR_STYLES = (
    _PairStyle("pairs within 3 standard errors", BLUE, -1.0, 3.0),
    _PairStyle("3 to 5", ORANGE, 3.0, 5.0),
    _PairStyle("more than 5", RED, 5.0, math.inf),
    _PairStyle("not solved", SKY, math.nan, math.nan),
)


def _draw_map(figure: Any, run: RunData) -> None:
    axes = figure.add_subplot()
    _draw_outlines(axes, run)
    _draw_pairs(axes, run)
    axes.autoscale()
    axes.set_aspect("equal")
    axes.set(xlabel="← east (degrees)", ylabel="(degrees) north →")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")


def _draw_outlines(axes: Any, run: RunData) -> None:
    from matplotlib.collections import PolyCollection

    tiles, group = run.tiles, np.array(run.group_numbers)
    corners = tiles.corners()
    for style in TILE_STYLES:
        outlines = corners[style.shows(tiles.pairs, group)[tiles.is_placed]]
        if len(outlines):
            axes.add_collection(
                PolyCollection(
                    outlines, facecolors="none", edgecolors=style.colour, label=style.label
                )
            )


def _draw_pairs(axes: Any, run: RunData) -> None:
    from matplotlib.collections import LineCollection

    centres = np.full((len(run.tiles), 2), np.nan)
    centres[run.tiles.is_placed] = run.tiles.corners().mean(axis=1)
    lines = np.stack([centres[run.pairs.i], centres[run.pairs.j]], axis=1)
    drawn, chi = run.pairs.measured & np.isfinite(lines).all(axis=(1, 2)), run.pairs.max_chi
    width = 0.4 if len(run.pairs) > 1000 else 1.2
    for style in PAIR_STYLES:
        shown = lines[drawn & style.shows(chi)]
        if len(shown):
            axes.add_collection(
                LineCollection(
                    shown, colors=style.colour, linewidths=width, label=style.label, zorder=3
                )
            )


def _draw_times(figure: Any, run: RunData) -> None:
    axes = figure.add_subplot()
    lanes, stage = _lanes(run), run.jobs.stage
    done = np.isin(run.jobs.outcome, ("measured", "rejected"))
    for name, colour in zip(dict.fromkeys(stage.tolist()), cycle(STAGE_COLOURS), strict=False):
        _draw_bars(axes, run, done & (stage == name), colour, stage_title(name))
    _draw_bars(axes, run, ~done, RED, "failed")
    axes.set_yticks(range(len(lanes.names)), lanes.names)
    axes.invert_yaxis()
    axes.set(xlabel="seconds since the start of the run")
    figure.legend(loc="outside upper center", ncols=5, fontsize="small")


def _lanes(run: RunData) -> WorkerLanes:
    return worker_lanes(run.jobs.pid, run.jobs.started_ns, run.jobs.ended_ns)


def _draw_bars(axes: Any, run: RunData, shown: np.ndarray, colour: str, label: str) -> None:
    if not shown.any():
        return
    starts = [run.elapsed(started_ns) for started_ns in run.jobs.started_ns[shown].tolist()]
    widths, rows = run.jobs.seconds[shown], np.array(_lanes(run).rows)[shown]
    axes.barh(rows, widths, left=starts, height=0.8, color=colour, label=label)


def _draw_corrections(figure: Any, run: RunData) -> None:
    corrections = run.tiles.corrections
    colours = CHANNEL_COLOURS.get(run.n_channels, (BLUE, ORANGE, GREEN, PURPLE, RED))
    for row, (name, label) in enumerate((("gain", "gain"), ("offset", run.in_unit("offset"))), 1):
        axes = figure.add_subplot(2, 1, row)
        for channel, channel_name in enumerate(run.channel_names):
            axes.errorbar(
                np.arange(len(run.tiles)),
                corrections[name][:, channel],
                corrections[f"{name}_err"][:, channel],
                fmt=".", color=colours[channel % len(colours)], label=channel_name,
            )  # fmt: skip
        axes.set(xlabel="tile", ylabel=label)
    if run.n_channels > 1:
        figure.axes[0].legend()


def _draw_residuals(figure: Any, run: RunData) -> None:
    edges, chi = np.linspace(-MAX_CHI, MAX_CHI, 49), np.linspace(-MAX_CHI, MAX_CHI, 200)
    normal = np.exp(-(chi**2) / 2) / math.sqrt(2 * math.pi)
    for column, quantity in enumerate(("level", "gain"), 1):
        values = run.finite_residuals(f"{quantity}_chi")
        axes = figure.add_subplot(1, 2, column)
        axes.hist(np.clip(values, -MAX_CHI, MAX_CHI), edges, color=SKY, label="pairs")
        expected = len(values) * (edges[1] - edges[0]) * normal
        axes.plot(chi, expected, color=ORANGE, label="if the errors were exact")
        axes.set(xlabel=f"residual {quantity} (standard errors)", ylabel="pairs")
        axes.legend(fontsize="small")
