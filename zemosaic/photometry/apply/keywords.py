"""How the keywords of a header follow the correction of its image.

``corrected = gain * data + offset``, but for a surface and for an illumination with a mean of 1, so
the keywords that depend on the scale or the level of the pixels would be false in the corrected
file. `RULES` changes them; what cannot be computed, such as one zero point for channels of
different gains, is marked in its comment and in HISTORY.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from ..solver.solve import TERMS, Correction
from ..tiles.fits_files import image_unit

#: Begins the comment of a keyword that could not be made to follow the correction.
MARK = "before correction"


@dataclass(frozen=True)
class Transform:
    """``corrected = gain * data + offset``, NaN for a term that is not one number."""

    gain: float
    offset: float

    @classmethod
    def of(cls, correction: Correction) -> Transform:
        """Return the transform of a tile; NaN if its channels or its pixels differ."""
        gain, offset = _common(correction.gain), _common(correction.offset)
        surface = any(np.any(getattr(correction, name)) for name in TERMS[2:])
        flat = not surface and correction.illumination is None
        return cls(gain, offset if flat else math.nan)


#: Value of a keyword in the corrected file.
Rule = Callable[[float, Transform], float]


def zero_point(value: float, transform: Transform) -> float:
    """Magnitude of one count: ``zero_point - 2.5 * log10(counts)`` stays the same."""
    return value + 2.5 * math.log10(transform.gain)


def per_count(value: float, transform: Transform) -> float:
    """Flux or electrons per count: its product with the counts stays the same."""
    return value / transform.gain


def difference(value: float, transform: Transform) -> float:
    """Counts of a source, or noise: independent of the level."""
    return value * transform.gain


def level(value: float, transform: Transform) -> float:
    """Value of a pixel: follows as the pixels do."""
    return value * transform.gain + transform.offset


def unknown(_value: float, _transform: Transform) -> float:
    """Depends on the pixels in a way that the header does not tell apart."""
    return math.nan


#: Keywords as regular expressions, and their rules. docs/applied.md shows this table.
RULES: dict[str, Rule] = {
    "MAGZEROP?|MAGZPT|MAGZP|MAG_?ZP|MAG0|ZEROPOINT|ZEROPNT|ZEROP|ZPT|ZP|ZMAG": zero_point,
    "ZPMAG|ZPTMAG|PHOTZP|PHOTZPT|ABZP|ZPAB|ZP_AB|ABMAGZP|MZERO[RS]?|MZEROAPT|ZPT_OBS": zero_point,
    "PHOTFLAM|PHOTFNU|PHOTMJSR|PHOTUJA2|PHOTJY|FLUXCONV|FLXSCALE|FSCALE": per_count,
    "E?GAIN[A-D]?|E?GAIN[0-9]{1,2}|ATODGAIN|ATODGN[A-D]|CVF|EPERADU|E_?PER_?ADU|EPADU": per_count,
    "ESO DET (OUT|CHIP)[0-9]* CONAD": per_count,
    "ESO DET (OUT|CHIP)[0-9]* GAIN|FLUXMAG0": difference,
    "RDNOISE[A-D]?|RDNOIS[0-9]{1,2}|READNOISE?|READNSE[A-D]?|RON": difference,
    "SKYSIGMA?|SKYRMS|SKYNOISE|AVSIG|BKGSIGMA?|BKGNOISE|BKGRMS|BGNOISE|STDDEV|STDEV": difference,
    "SATURATE|SATURAT[A-D]|SATUR_?LEV|SATLEVEL|SATLEV|SATVAL|SATURVAL|SATURATION": level,
    "DATAMIN|DATAMAX|DATAMEAN|DATAMED|GOODMIN|GOODMAX|GOODMEAN|MEAN|MEDIAN|IMGMEAN|IMGMED": level,
    "SKY|SKYLEVE?L?|SKYVAL|SKYADU|SKYMED|SKYMEAN|SKYMODE|SKYBKG|AVSKY|MEANSKY|MDRIZSKY": level,
    "BACKGROUND|BACKGRN?D|BACKLEV|BKG|BKGLEVEL|BKGVAL|BGLEVEL|CBLACK|CWHITE|MIPS-(HI|LO)": level,
    "PEDESTAL": unknown,  # to be added or to be subtracted: programs differ
}  # fmt: skip
_PATTERNS = [(re.compile(keywords), rule) for keywords, rule in RULES.items()]

_ELECTRONS = re.compile(r"e-|electron|\be\b", re.IGNORECASE)
_COUNTS = re.compile(r"\b(adu|dn|counts?)\b", re.IGNORECASE)
_CAMERA_SETTING = re.compile(r"sensor|camera|setting|\bdB\b|\biso\b", re.IGNORECASE)
_FLUX_UNIT = re.compile(r"Jy|erg|W\s?/?\s?m|mgy|\bmag", re.IGNORECASE)
_LIMITS = re.compile("DATAMIN|DATAMAX|GOODMIN|GOODMAX|GOODMEAN")


def update_keywords(header: fits.Header, transform: Transform, unit: str = "") -> None:
    """Make the keywords of a header follow a correction, and list them in HISTORY.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header of a corrected image, or the primary header above it; changed in place.
    transform : Transform
        The correction.
    unit : str
        Unit of the image, if the header is not its own.
    """
    if transform == Transform(1.0, 0.0):
        return
    changed, marked = [], []
    for card, value in _numbers(header):
        rule = _rule(card, header, unit or image_unit(header))
        if rule is None:
            continue
        new = rule(value, transform)
        if math.isfinite(new):
            card.value = new
            changed.append(card.keyword)
        else:
            if not card.comment.startswith(MARK):
                card.comment = f"{MARK}: {card.comment}" if card.comment else MARK
            marked.append(card.keyword)
    if changed:
        header.add_history(f"zemosaic: changed with the pixels: {', '.join(changed)}")
    if marked:
        header.add_history(f"zemosaic: of the uncorrected data: {', '.join(marked)}")


def scale_limits(header: fits.Header, factor: float) -> None:
    """Multiply the keywords for the range of an image, such as DATAMAX."""
    for card, value in _numbers(header):
        if _LIMITS.fullmatch(card.keyword):
            card.value = value * factor


def _numbers(header: fits.Header) -> list[tuple[fits.Card, float]]:
    """Return the cards with a rule that hold a finite number, and the number."""
    cards = []
    for card in header.cards:
        if not any(pattern.fullmatch(card.keyword) for pattern, _ in _PATTERNS):
            continue
        try:
            value = card.value
        except fits.VerifyError:  # no value that can be parsed
            continue
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and math.isfinite(value):
            cards.append((card, value))
    return cards


def _rule(card: fits.Card, header: fits.Header, unit: str) -> Rule | None:
    """Return the rule of a card, None if it stays."""
    keyword, comment = card.keyword, card.comment
    rule = next(rule for pattern, rule in _PATTERNS if pattern.fullmatch(keyword))
    if keyword == "PHOTZPT" and "PHOTFLAM" in header:
        return None  # of the system of magnitudes, not of the image
    if keyword.startswith(("PHOT", "FLUXCONV")) and rule is per_count and _FLUX_UNIT.search(unit):
        return unknown  # already applied to the pixels
    if keyword == "GAIN" and not _ELECTRONS.search(comment):
        known = {"EGAIN", "CVF", "EPERADU"} & set(header)
        is_setting = isinstance(card.value, int) or known or _CAMERA_SETTING.search(comment)
        return unknown if is_setting else rule
    if keyword.startswith(("RDNOIS", "READN", "RON")):
        if _COUNTS.search(comment):
            return rule
        return None if _ELECTRONS.search(comment) else unknown
    return rule


def _common(values: np.ndarray | float) -> float:
    """Return the value that all channels share, NaN if they differ."""
    values = np.unique(values)
    return float(values[0]) if len(values) == 1 else math.nan
