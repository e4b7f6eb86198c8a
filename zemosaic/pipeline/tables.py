"""The tables of a run folder, as ECSV with units: corrections.ecsv and pairs.ecsv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Table

from .._version import __version__
from ..files import atomic_write
from ..photometry.pairfit.measure import PairMeasurement, Rejected
from ..settings import Settings
from .solution import PhaseSolution

LINE = ("cells", "gain", "gain_err", "offset", "x", "y", "level_err", "rms", "correlation")
ADU = ("offset", "offset_err", "x", "y", "level_err", "rms", "residual")


def corrections_table(solution: PhaseSolution, settings: Settings) -> Table:
    """One row per tile and channel; NaN for a tile that could not be used."""
    tiles, channels = solution.gain.shape
    tile, channel = np.divmod(np.arange(tiles * channels), channels)
    names = _printable(solution.names)
    columns: dict[str, Any] = {
        "tile": tile,
        "file": [names[t] for t in tile],
        "channel": channel,
    }
    for name in ("gain", "gain_err", "offset", "offset_err", "slope_x", "slope_y", "component",
                 "gain_group", "pairs", "suspect", "shift"):  # fmt: skip
        columns[name] = getattr(solution, name).ravel()
    table = Table(columns, meta=_meta(settings))
    table.meta["formula"] = (
        "corrected = gain * data + offset + slope_x * (x - x0) + slope_y * (y - y0), "
        "(x0, y0) the tile's centre"
    )
    for name in ("slope_x", "slope_y"):
        table[name].unit = u.adu / u.pix
    table["shift"].unit = u.pix
    return _with_units(table)


def pairs_table(solution: PhaseSolution, settings: Settings) -> Table:
    """One row per pair and channel, measured or not, with the reason."""
    rows: list[dict[str, Any]] = []
    files = _printable(solution.names)
    for number, record in enumerate(solution.records):
        for channel, measurement in enumerate(record.measurements):
            measured = isinstance(measurement, PairMeasurement)
            row: dict[str, Any] = {
                "pair": record.index,
                "tile_i": record.i,
                "tile_j": record.j,
                "file_i": files[record.i],
                "file_j": files[record.j],
                "channel": channel,
                "outcome": "rejected" if _rejected(record.outcome, measured) else record.outcome,
                "reason": _reason(measurement),
                "area": record.area,
            }
            for name in LINE:
                missing = 0 if name == "cells" else np.nan
                row[name] = getattr(measurement, name) if measured else missing
            row["residual"] = solution.residual[number, channel]
            rows.append(row)
    names = ["pair", "tile_i", "tile_j", "file_i", "file_j", "channel", "outcome", "reason",
             "area", *LINE, "residual"]  # fmt: skip
    columns = {name: [row[name] for row in rows] for name in names}
    table = Table(columns, meta=_meta(settings))
    table.meta["formula"] = "y = gain * x + offset, x of tile_i and y of tile_j"
    table["area"].unit = u.deg**2
    return _with_units(table)


def write_table(table: Table, path: Path) -> None:
    """Write a table whole or not at all: under another name first."""
    with atomic_write(path) as temporary:
        table.write(temporary, format="ascii.ecsv", overwrite=True)


def _printable(names: Sequence[str]) -> list[str]:
    """Names with the bytes that are no UTF-8, which Linux allows in them, spelled out."""
    return [name.encode(errors="backslashreplace").decode() for name in names]


def _rejected(outcome: str, measured: bool) -> bool:
    return outcome == "measured" and not measured


def _reason(measurement: object) -> str:
    if isinstance(measurement, Rejected):
        return measurement.reason
    if isinstance(measurement, PairMeasurement) and not measurement.gain_measured:
        return "gain not measurable here"
    return ""


def _with_units(table: Table) -> Table:
    for name in ADU:
        if name in table.colnames:
            table[name].unit = u.adu
    return table


def _meta(settings: Settings) -> dict[str, Any]:
    return {"zemosaic": __version__, "model": settings.model, "neighbours": settings.neighbours}
