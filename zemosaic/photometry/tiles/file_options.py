"""How the files of tiles are read: which HDUs, and the meaning of their values."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from ...errors import UserError

#: Properties that the tiles of a group can share.
SHARED = ("gain", "level")
#: Keywords that distinguish instruments, their chips, filters and modes of readout.
INSTRUMENT_KEYWORDS = (
    "TELESCOP", "INSTRUME", "CAMERA", "DETECTOR", "CHIPID", "CCDNAME", "CCDNUM", "CCDCHIP", "CHIP",
    "EXTNAME", "EXTVER", "FILTER", "FILTER1", "FILTER2", "FILTER3", "XBINNING", "YBINNING",
    "CCDSUM", "CCDBIN1", "CCDBIN2",
)  # fmt: skip
#: Number of an HDU, or text that selects images (see `zemosaic.photometry.tiles.images`), or name
#: and version; None selects all images of the kind of the first.
HduKey = int | str | tuple[str, int] | None


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How the files of tiles are read.

    Parameters
    ----------
    hdu : int, str, tuple or None
        HDUs of the images: ``1``, ``"SCI,2"`` or ``("SCI", 2)``, ``"SCI"`` (all of this name),
        ``"1,4"``, ``"all"``, or several joined by ``+``. None selects the first image with a
        celestial WCS and all others of its kind, as the chips of a camera.
    mask_hdu, weight_hdu : int, str or None
        HDU of a mask, whose flagged pixels are bad, and of weights, which are bad at 0 and better
        the higher they are; of a name, the one with the version of the image. None takes the data
        quality (DQ) of JWST and HST and no weights, "none" no mask at all.
    mask, weight : str or None
        Path of a file with the mask or the weights beside each image, as `wcs`.
    mask_bits : int, str or None
        Flags of the mask to ignore, in the convention of `astropy.nddata.bitmask`; after a ``~``
        the only bad flags. None takes the bad flags of JWST, HST and Rubin, or all.
    wcs : str
        Path of the file with the WCS of an image without one in its header, relative to the folder
        of the image; ``{stem}`` stands for its name without ending.
    group : str or None
        Tiles that share their gain and level: ``exposure`` (tiles of one file) or a keyword
        (tiles with the same value). ``exposure:gain`` or ``exposure:level`` share one of both;
        several are joined by ``+``.
    instrument : str
        What distinguishes instruments, whose tiles share an illumination: keywords joined by
        commas, "auto" for those of `INSTRUMENT_KEYWORDS` that the headers have, or "none" for
        tiles that share nothing. The shape of a tile always counts.
    blank : {"auto", "none"} or float
        Value of pixels that hold no datum, besides NaN. "auto" finds the fill value
        of registered frames, "none" takes every number as a datum.

    Raises
    ------
    UserError
        A value is invalid.
    """

    AUTO_BLANK: ClassVar[str] = "auto"
    NO_BLANK: ClassVar[str] = "none"
    NO_MASK: ClassVar[str] = "none"

    hdu: HduKey = None
    mask_hdu: int | str | None = None
    weight_hdu: int | str | None = None
    mask: str | None = None
    weight: str | None = None
    mask_bits: int | str | None = None
    wcs: str = "{stem}.wcs"
    group: str | None = None
    instrument: str = "auto"
    blank: str | float = AUTO_BLANK

    def __post_init__(self) -> None:
        group_rules(self.group)
        instrument_keywords(self.instrument)
        if self.blank not in (self.AUTO_BLANK, self.NO_BLANK):
            try:
                float(self.blank)
            except ValueError:
                raise UserError(f"blank is {self.blank!r}; give a number, auto or none") from None

    @classmethod
    def of(cls, options: FileOptions) -> FileOptions:
        """Return the options of files alone, without options added by a subclass."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})


def split_input(text: str) -> tuple[str, str | None]:
    """Split ``file.fits[SCI,2]`` into file and images; a file of that very name has none."""
    match = re.fullmatch(r"(.+)\[([^\[\]]+)\]", text)
    if match is None or Path(text).exists():
        return text, None
    return match[1], match[2]


def group_rules(group: str | None) -> list[tuple[str, tuple[str, ...]]]:
    """Return the key and the shared property of each rule in `FileOptions.group`.

    Raises
    ------
    UserError
        A rule is invalid.
    """
    rules: list[tuple[str, tuple[str, ...]]] = []
    for rule in group.split("+") if group is not None else ():
        key, _, shared = rule.partition(":")
        if not key or shared not in ("", *SHARED):
            raise UserError(
                f"group is {group!r}; give exposure or a keyword, alone or with :gain or :level"
            )
        rules.append((key, (shared,) if shared else SHARED))
    return rules


def instrument_keywords(instrument: str) -> tuple[str, ...]:
    """Return the keywords of the option `FileOptions.instrument`; none for "none".

    Raises
    ------
    UserError
        A keyword is empty.
    """
    if instrument in ("auto", "none"):
        return INSTRUMENT_KEYWORDS if instrument == "auto" else ()
    keywords = tuple(keyword.strip().upper() for keyword in instrument.split(","))
    if not all(keywords):
        raise UserError(
            f"instrument is {instrument!r}; give auto, none, or keywords joined by commas"
        )
    return keywords
