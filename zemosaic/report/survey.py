"""A picture of a sky survey behind the map, and the map's field in Aladin Lite.

Nothing here uses the network unless a user asks for the picture, or follows the link.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from ..errors import UserError
from .data import RunData

#: The service of CDS, Strasbourg, that cuts pictures out of surveys, and its viewer.
HIPS2FITS = "https://alasky.cds.unistra.fr/hips-image-services/hips2fits"
ALADIN = "https://aladin.cds.unistra.fr/AladinLite/"
TIMEOUT = 60.0  # seconds
LONGEST = 800  # pixels of a picture
MARGIN = 0.05  # of the extent of the tiles on each side
MAX_TANGENT_RADIUS = 30.0  # degrees from the origin up to which the map is a tangent plane


@dataclass(frozen=True)
class Field:
    """The field of the map, in degrees west (x) and north (y) of its origin."""

    left: float
    right: float
    bottom: float
    top: float

    @classmethod
    def of(cls, run: RunData) -> Field | None:
        """Return the field of all tiles with a margin; None if there is no map of the sky."""
        if not run.origin:
            return None
        corners = run.tiles.corners().reshape(-1, 2)
        (left, bottom), (right, top) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        margin = MARGIN * max(right - left, top - bottom)
        return cls(left - margin, right + margin, bottom - margin, top + margin)


@dataclass(frozen=True)
class SurveyPicture:
    """A JPEG file of a field of the sky, east left, and the name of its survey."""

    jpeg: bytes
    field: Field
    survey: str


def aladin_link(run: RunData) -> str:
    """Return the address of the field in Aladin Lite; empty without a map of the sky."""
    field = Field.of(run)
    if field is None:
        return ""
    ra, dec = run.origin
    width = max(field.right - field.left, field.top - field.bottom)
    parameters = {"target": f"{ra:.5f} {dec:+.5f}", "fov": f"{width:.3g}", "survey": "P/DSS2/color"}
    return f"{ALADIN}?{urlencode(parameters, quote_via=quote)}"


def fetch_survey(run: RunData, survey: str) -> SurveyPicture:
    """Fetch the picture of a survey (a HiPS) behind the tiles of a run.

    Raises
    ------
    UserError
        The run has no map of the sky, or there is no picture.
    """
    from urllib.error import HTTPError
    from urllib.request import urlopen

    field = Field.of(run)
    if field is None:
        raise UserError(f"{run.autopsy.folder}: has no map of the sky to draw over a survey")
    parameters = {"hips": survey, "format": "jpg", "wcs": json.dumps(_wcs(run, field))}
    try:
        with urlopen(f"{HIPS2FITS}?{urlencode(parameters)}", timeout=TIMEOUT) as answer:
            jpeg = answer.read()
    except (OSError, ValueError) as error:
        reason: object = error
        if isinstance(error, HTTPError):
            reason = f"{error.code} {error.reason}"
            error.close()
        raise UserError(
            f"{survey}: no picture from {HIPS2FITS} ({reason}); check name and network, or omit "
            "--survey"
        ) from None
    if not jpeg.startswith(b"\xff\xd8"):
        raise UserError(f"{survey}: {HIPS2FITS} has sent no picture; check the name")
    return SurveyPicture(jpeg, field, survey)


def _wcs(run: RunData, field: Field) -> dict[str, object]:
    """Return the header of the picture: the projection of the map."""
    width, height = field.right - field.left, field.top - field.bottom
    scale = max(width, height) / LONGEST
    edges = (field.left, field.right, field.bottom, field.top)
    projection = "TAN" if max(map(abs, edges)) < MAX_TANGENT_RADIUS else "ZEA"
    return {
        "NAXIS1": round(width / scale), "NAXIS2": round(height / scale), "WCSAXES": 2,
        "CTYPE1": f"RA---{projection}", "CTYPE2": f"DEC--{projection}",
        "CRVAL1": run.origin[0], "CRVAL2": run.origin[1], "CUNIT1": "deg", "CUNIT2": "deg",
        "CRPIX1": 0.5 - field.left / scale, "CRPIX2": 0.5 - field.bottom / scale,
        "CDELT1": -scale, "CDELT2": scale,
    }  # fmt: skip
