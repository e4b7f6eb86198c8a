"""How the files of tiles are read: which HDUs, and what the values in them mean."""

from __future__ import annotations

from dataclasses import dataclass, fields

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
    """

    hdu: HduKey = None
    mask_hdu: HduKey = None

    @classmethod
    def of(cls, options: FileOptions) -> FileOptions:
        """Return the options of files alone, without those that a subclass adds."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})
