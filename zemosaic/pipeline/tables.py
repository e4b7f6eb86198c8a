"""The tables of a run folder with units: corrections.ecsv and pairs.ecsv, and other formats."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table

from .._version import __version__
from ..files import atomic_write
from ..photometry.solver.surfaces import SURFACE_POWERS
from ..photometry.stars.gain import StarGain
from ..settings import Settings
from .packed_measurements import PackedMeasurements
from .solution import PhaseSolution

__all__ = [
    "SURFACE_POWERS",
    "corrections_table",
    "pairs_table",
    "parse_unit",
    "run_name",
    "write_table",
]

SOLUTION_COLUMNS = (
    "gain", "gain_err", "offset", "offset_err", "bias", *SURFACE_POWERS,
    "component", "gain_group", "pairs", "suspect", "shift",
)  # fmt: skip
MEASUREMENT_COLUMNS = (
    "cells", "gain", "gain_err", "offset", "x", "y", "level_err", "rms", "correlation",
)  # fmt: skip
#: Columns of the gains of stars, and their fields in `StarGain`.
STAR_COLUMNS = {"star_gain": "gain", "star_gain_err": "gain_err", "stars": "stars"}
LEVEL_COLUMNS = (
    "offset",
    "offset_err",
    "bias",
    "x",
    "y",
    "level_err",
    "rms",
    "residual",
    "seam_err",
)
SURFACE = " + ".join(
    f"{name} * " + " * ".join(["dx"] * power_x + ["dy"] * power_y)
    for name, (power_x, power_y) in SURFACE_POWERS.items()
)
#: Name of the format in astropy by the ending of a file.
TABLE_FORMATS = {".ecsv": "ascii.ecsv", ".fits": "fits", ".parquet": "parquet"}
ROWS_WRITTEN = 10_000  # formatted at once, in kilobytes each
LONGEST_KEYWORD = 8  # of FITS
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
    return table


def pairs_table(solution: PhaseSolution, settings: Settings) -> Table:
    """Return a table with one row per pair and channel, with the reason if it was not measured."""
    records = solution.records
    channels, heads = solution.gain.shape[1], solution.heads
    row, channel = np.divmod(np.arange(heads.size), channels)
    i, j = (np.array([getattr(r, end) for r in records], dtype=int)[row] for end in ("i", "j"))
    names = np.array(_printable(solution.names), dtype=object)
    entries = [entry for r in records for entry in PackedMeasurements.of(r.measurements).entries]
    columns: dict[str, Any] = {
        "pair": np.array([record.index for record in records], dtype=int)[row],
        "tile_i": i,
        "tile_j": j,
        "file_i": names[i].tolist(),
        "file_j": names[j].tolist(),
        "channel": channel,
        "outcome": [
            # A pair counts as measured if any of its channels is.
            "rejected"
            if isinstance(entry, str) and records[pair].outcome == "measured"
            else records[pair].outcome
            for pair, entry in zip(row.tolist(), entries, strict=True)
        ],
        "reason": [
            entry if isinstance(entry, str) else "" if measured else "gain not measurable here"
            for entry, measured in zip(entries, heads["gain_measured"].ravel(), strict=True)
        ],
        "area": np.array([record.area for record in records], dtype=float)[row],
    }
    columns |= {name: heads[name].ravel() for name in MEASUREMENT_COLUMNS}
    if settings.needs_stars:
        stars = [star for record in records for star in record.stars or (StarGain(),) * channels]
        columns |= {
            name: [getattr(star, field) for star in stars] for name, field in STAR_COLUMNS.items()
        }
    columns |= {name: getattr(solution, name).ravel() for name in ("residual", "seam_err")}
    formula = "y = gain * x + offset, x of tile_i and y of tile_j"
    return _table(columns, settings, formula, solution.unit)


def write_table(table: Table, path: Path) -> None:
    """Write a table as ECSV, FITS or Parquet, replacing `path` only when it is complete.

    The ending gives the format: ``.ecsv``, ``.fits`` or ``.parquet``.
    """
    name = TABLE_FORMATS[path.suffix]
    with atomic_write(path) as temporary:
        table = _fits_table(table) if name == "fits" else table
        if name == "ascii.ecsv":
            # In bytes: astropy would use the encoding and the line ends of the system.
            with temporary.open("wb") as file:
                file.writelines(_ecsv(table))
        else:
            table.write(temporary, format=name, overwrite=True)


def _fits_table(table: Table) -> Table:
    """Return a table with metadata and units for FITS: others become comments and text."""
    meta, comments = {}, []
    for key, value in table.meta.items():
        if len(key) <= LONGEST_KEYWORD and isinstance(value, (str, int, float)):
            meta[key] = value
        else:
            comments.append(f"{key} = {json.dumps(value)}")
    plain = table.copy()
    for name in plain.colnames:
        unit = plain[name].unit
        if isinstance(unit, u.UnrecognizedUnit):
            plain[name].unit = None
            comments.append(f"unit of {name}: {unit}")
    plain.meta = meta | {"comments": comments}
    return plain


def quantity_table(table: Table) -> QTable:
    """Return a table in which columns with a unit that astropy knows are quantities."""
    plain = {name: table[name].unit for name in table.colnames}
    unknown = [name for name, unit in plain.items() if isinstance(unit, u.UnrecognizedUnit)]
    table = table.copy()
    for name in unknown:
        table[name].unit = None
    quantities = QTable(table)
    for name in unknown:
        quantities[name].unit = plain[name]
    return quantities


def run_name(solution: PhaseSolution, settings: Settings) -> str:
    """Return a name for a run: 16 digits of the SHA-256 of its corrections.ecsv.

    The same run repeated has the same name.
    """
    digest = hashlib.sha256()
    for part in _ecsv(corrections_table(solution, settings)):
        digest.update(part)
    return digest.hexdigest()[:16]


def _ecsv(table: Table) -> Iterator[bytes]:
    """Yield the parts of a table as ECSV in UTF-8, with the same line ends on all systems."""
    for start in range(0, max(len(table), 1), ROWS_WRITTEN):
        text = io.StringIO()
        table[start : start + ROWS_WRITTEN].write(text, format="ascii.ecsv")
        lines = text.getvalue().replace(os.linesep, "\n")
        if start:  # without the head, which ends with the names of the columns
            lines = re.sub(r"\A(#.*\n)*.*\n", "", lines)
        yield lines.encode()


def _printable(names: Sequence[str]) -> list[str]:
    """Return the names with any bytes invalid in UTF-8, which Linux allows, as escapes."""
    return [name.encode(errors="backslashreplace").decode() for name in names]


def _table(columns: dict[str, Any], settings: Settings, formula: str, unit: str) -> Table:
    meta = {"zemosaic": __version__, "model": settings.model, "neighbours": settings.neighbours}
    table = Table(columns, meta=meta | {"formula": formula})
    units = {
        **UNITS,
        **dict.fromkeys(LEVEL_COLUMNS, parse_unit(unit)),
    }
    for name, powers in SURFACE_POWERS.items():
        units[name] = parse_unit(unit, f"pix{sum(powers)}")
    for name in units.keys() & set(table.colnames):
        table[name].unit = units[name]
    return table


def parse_unit(unit: str, divisor: str = "") -> u.UnitBase | None:
    """Return a unit as astropy knows it, or as its text alone; None for an empty one."""
    if not unit:
        return None
    known = u.Unit(unit, parse_strict="silent")
    if isinstance(known, u.UnrecognizedUnit):
        return u.UnrecognizedUnit(f"{unit} / {divisor}" if divisor else unit)
    return known / u.Unit(divisor)
