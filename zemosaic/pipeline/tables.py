"""The tables of a run folder as ECSV with units: corrections.ecsv and pairs.ecsv."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Table

from .._version import __version__
from ..files import atomic_write
from ..photometry.pairfit.measurement import Measurement, PairMeasurement, Rejected
from ..photometry.solver.surfaces import SURFACE_POWERS
from ..photometry.stars.gain import StarGain
from ..settings import Settings
from .records import PairRecord
from .solution import PhaseSolution

__all__ = ["SURFACE_POWERS", "corrections_table", "pairs_table", "run_name", "write_table"]

SOLUTION_COLUMNS = (
    "gain", "gain_err", "offset", "offset_err", *SURFACE_POWERS,
    "component", "gain_group", "pairs", "suspect", "shift",
)  # fmt: skip
MEASUREMENT_COLUMNS = (
    "cells", "gain", "gain_err", "offset", "x", "y", "level_err", "rms", "correlation",
)  # fmt: skip
STAR_COLUMNS = ("star_gain", "star_gain_err", "stars")
LEVEL_COLUMNS = ("offset", "offset_err", "x", "y", "level_err", "rms", "residual")
SURFACE = " + ".join(
    f"{name} * " + " * ".join(["dx"] * power_x + ["dy"] * power_y)
    for name, (power_x, power_y) in SURFACE_POWERS.items()
)
CENTRE = "dx, dy in pixels from the tile's centre"
UNITS = {"shift": u.pix, "area": u.deg**2}


def corrections_table(solution: PhaseSolution, settings: Settings) -> Table:
    """Return a table with one row per tile and channel; NaN for unusable tiles."""
    tiles, channels = solution.gain.shape
    tile, channel = np.divmod(np.arange(tiles * channels), channels)
    names = _printable(solution.names)
    columns: dict[str, Any] = {
        "tile": tile,
        "file": [names[index] for index in tile],
        "channel": channel,
    }
    columns |= {name: getattr(solution, name).ravel() for name in SOLUTION_COLUMNS}
    lights, line = solution.illuminations, "gain * data + offset"
    if len(lights) > 1:
        instruments = {index: light.name for light in lights for index in light.tiles.tolist()}
        columns["instrument"] = _printable([instruments.get(index, "") for index in tile.tolist()])
    if lights:
        line = "(gain * (data - glow) + offset - bias) / F + bias"
    formula = f"corrected = {line} + {SURFACE}, {CENTRE}"
    table = _table(columns, settings, formula, solution.unit)
    if lights:
        table.meta["illumination"] = [light.digest for light in lights]
        table.meta["bias"] = [light.bias.tolist() for light in lights]
    return table


def pairs_table(solution: PhaseSolution, settings: Settings) -> Table:
    """Return a table with one row per pair and channel, with the reason if it was not measured."""
    names = _printable(solution.names)
    rows = [
        _pair_row(record, names, channel, measurement) | {"residual": residual}
        for record, residuals in zip(solution.records, solution.residual, strict=True)
        for channel, (measurement, residual) in enumerate(
            zip(record.measurements, residuals, strict=True)
        )
    ]
    columns = (
        "pair", "tile_i", "tile_j", "file_i", "file_j", "channel", "outcome", "reason", "area",
        *MEASUREMENT_COLUMNS, *(STAR_COLUMNS if settings.needs_stars else ()), "residual",
    )  # fmt: skip
    return _table(
        {name: [row[name] for row in rows] for name in columns},
        settings,
        "y = gain * x + offset, x of tile_i and y of tile_j",
        solution.unit,
    )


def write_table(table: Table, path: Path) -> None:
    """Write a table as ECSV, replacing `path` only when it is complete."""
    with atomic_write(path) as temporary:
        # In bytes: astropy would use the encoding and the line ends of the system.
        temporary.write_bytes(_ecsv(table).encode())


def run_name(solution: PhaseSolution, settings: Settings) -> str:
    """Return a name for a run: 16 digits of the SHA-256 of its corrections.ecsv.

    The same run repeated has the same name.
    """
    text = _ecsv(corrections_table(solution, settings))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ecsv(table: Table) -> str:
    """Return a table as ECSV, with the same line ends on all systems."""
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    return text.getvalue().replace(os.linesep, "\n")


def _pair_row(
    record: PairRecord, names: Sequence[str], channel: int, measurement: Measurement
) -> dict[str, Any]:
    measured = isinstance(measurement, PairMeasurement)
    # A pair counts as measured if any of its channels is.
    rejected = record.outcome == "measured" and not measured
    row = {
        "pair": record.index,
        "tile_i": record.i,
        "tile_j": record.j,
        "file_i": names[record.i],
        "file_j": names[record.j],
        "channel": channel,
        "outcome": "rejected" if rejected else record.outcome,
        "reason": _reason(measurement),
        "area": record.area,
    }
    star = record.stars[channel] if record.stars else StarGain()
    row |= {"star_gain": star.gain, "star_gain_err": star.gain_err, "stars": star.stars}
    for name in MEASUREMENT_COLUMNS:
        missing = 0 if name == "cells" else np.nan
        row[name] = getattr(measurement, name) if measured else missing
    return row


def _reason(measurement: Measurement) -> str:
    if isinstance(measurement, Rejected):
        return measurement.reason
    return "" if measurement.gain_measured else "gain not measurable here"


def _printable(names: Sequence[str]) -> list[str]:
    """Return the names with any bytes that are not UTF-8, which Linux allows, as escapes."""
    return [name.encode(errors="backslashreplace").decode() for name in names]


def _table(columns: dict[str, Any], settings: Settings, formula: str, unit: str) -> Table:
    meta = {"zemosaic": __version__, "model": settings.model, "neighbours": settings.neighbours}
    table = Table(columns, meta=meta | {"formula": formula})
    units = {
        **UNITS,
        **dict.fromkeys(LEVEL_COLUMNS, _parse_unit(unit)),
    }
    for name, powers in SURFACE_POWERS.items():
        units[name] = _parse_unit(unit, ("pix", "pix2", "pix3")[sum(powers) - 1])
    for name in units.keys() & set(table.colnames):
        table[name].unit = units[name]
    return table


def _parse_unit(unit: str, divisor: str = "") -> u.UnitBase | None:
    """Return a unit as astropy knows it, or as its text alone; None for an empty one."""
    if not unit:
        return None
    known = u.Unit(unit, parse_strict="silent")
    if isinstance(known, u.UnrecognizedUnit):
        return u.UnrecognizedUnit(f"{unit} / {divisor}" if divisor else unit)
    return known / u.Unit(divisor)
