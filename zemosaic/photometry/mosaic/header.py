"""The header of a mosaic, and the table of the tiles that went into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from astropy.io import fits
from astropy.table import Table

from ..._version import __version__
from ..solver.solve import Correction
from ..tiles.tile import Tile
from .canvas import Canvas
from .survey import TileSurvey

#: Longest text of a keyword that lists the values of all tiles.
LONGEST = 60
#: Keywords with the total exposure of a stack, and with the exposure of a single image.
EXPOSURES = ("LIVETIME", "TOTALEXP", "EXPTIME", "EXPOSURE")
COMMENTS = {
    "OBJECT": "of the tiles",
    "FILTER": "of the tiles",
    "INSTRUME": "of the tiles",
    "TELESCOP": "of the tiles",
}


def mosaic_header(
    canvas: Canvas,
    tiles: Sequence[Tile],
    surveys: Sequence[TileSurvey],
    combination: str,
    run: str = "",
) -> fits.Header:
    """Return the header of a mosaic: its WCS, and the common keywords of its tiles.

    Parameters
    ----------
    canvas : Canvas
        The canvas.
    tiles : sequence of Tile
        All tiles, of which some may be images of one file.
    surveys : sequence of TileSurvey
        The surveys of the tiles.
    combination : str
        How they are combined.
    run : str
        Name of the run that calibrated them.
    """
    header = fits.Header.fromstring(canvas.header)
    units = {tile.unit for tile in tiles}
    if len(units) == 1 and units != {""}:
        header["BUNIT"] = units.pop()
    facts = [survey.keywords for survey in surveys]
    for key, comment in COMMENTS.items():
        if text := _listed(fact[key] for fact in facts if key in fact):
            header[key] = (text, comment)
    header.update(_dates(facts))
    if exposures := _exposures(tiles, facts):
        header["TEXPTIME"] = (round(sum(exposures), 6), "[s] exposure of all tiles together")
    header["NCOMBINE"] = (len(tiles), "tiles, listed in the table TILES")
    header["COMBINET"] = (combination, "weighted mean; clip: without outliers")
    header["CREATOR"] = f"zemosaic {__version__}"
    if run:
        header["ZERUN"] = (run, "of the SHA-256 of corrections.ecsv")
    header.add_history(
        f"zemosaic: coadd ({combination}) of {len(tiles)} tiles by version {__version__}"
        + (f", calibrated by run {run}" if run else "")
    )
    return header


def tiles_table(
    tiles: Sequence[Tile],
    corrections: Sequence[Correction],
    surveys: Sequence[TileSurvey],
    noise: np.ndarray,
) -> fits.BinTableHDU:
    """Return the table TILES: names, gains, offsets, noise ``(T, C)`` and exposure of the tiles."""
    channels = tiles[0].channels
    columns = {
        "tile": [tile.name.encode("ascii", "backslashreplace").decode() for tile in tiles],
        **{
            name: np.array([np.broadcast_to(getattr(c, name), channels) for c in corrections])
            for name in ("gain", "offset")
        },
        "noise": noise,
        "exposure": [_exposure(survey.keywords) for survey in surveys],
        "date_obs": [str(survey.keywords.get("DATE-OBS", "")) for survey in surveys],
    }
    return fits.BinTableHDU(Table(columns), name="TILES")


def _listed(values: Iterable[object]) -> str:
    """Return the different values as one text, or their number if it would be long."""
    names = list(dict.fromkeys(" ".join(str(value).split()) for value in values))
    text = ", ".join(names).encode("ascii", "replace").decode()
    return text if len(text) <= LONGEST else f"{len(names)} different"


def _exposure(facts: Mapping[str, object]) -> float:
    """Return the exposure of a tile in seconds, NaN if its header has none."""
    for key in EXPOSURES:
        value = facts.get(key)
        if isinstance(value, (int, float)) and value > 0:
            return float(value)
    return np.nan


def _exposures(tiles: Sequence[Tile], facts: Sequence[Mapping[str, object]]) -> list[float]:
    """Return the exposures of all files; the chips of one are exposed together."""
    found = {
        tile.path or number: _exposure(fact)
        for number, (tile, fact) in enumerate(zip(tiles, facts, strict=True))
    }
    return [seconds for seconds in found.values() if np.isfinite(seconds)]


def _dates(facts: Sequence[Mapping[str, object]]) -> dict[str, tuple[str, str]]:
    """Return the cards of the first start and the last end."""
    starts, ends = [], []
    for fact in facts:
        start, end = (_date(fact.get(key)) for key in ("DATE-OBS", "DATE-END"))
        if start is None:
            continue
        seconds = _exposure(fact)
        if end is None:
            end = start + np.timedelta64(round(1000 * np.nan_to_num(seconds)), "ms")
        starts.append(start)
        ends.append(end)
    if not starts:
        return {}
    return {
        "DATE-OBS": (str(min(starts)), "start of the first tile"),
        "DATE-END": (str(max(ends)), "end of the last tile"),
    }


def _date(text: object) -> np.datetime64 | None:
    try:
        date = np.datetime64(str(text).strip().removesuffix("Z"), "ms") if text else None
    except ValueError:
        return None
    return None if date is None or np.isnat(date) else date
