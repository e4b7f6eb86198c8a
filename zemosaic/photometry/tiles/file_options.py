"""How the files of tiles are read: which HDUs, and what the values in them mean."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from ...errors import UserError

#: Number or name of an HDU; None selects the first image.
HduKey = int | str | None


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How the files of tiles are read.

    Parameters
    ----------
    hdu, mask_hdu : int, str or None
        HDU of the image (None: the first image) and of a mask whose nonzero
        pixels are bad (None: no mask).
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

    hdu: HduKey = None
    mask_hdu: HduKey = None
    blank: str | float = AUTO_BLANK

    def __post_init__(self) -> None:
        if self.blank not in (self.AUTO_BLANK, self.NO_BLANK):
            try:
                float(self.blank)
            except ValueError:
                raise UserError(f"blank is {self.blank!r}; give a number, auto or none") from None

    @classmethod
    def of(cls, options: FileOptions) -> FileOptions:
        """Return the options of files alone, without those that a subclass adds."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})
