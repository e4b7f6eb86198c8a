"""Application of corrections to tiles, as arrays or as FITS files.

`arrays` corrects pixels, `files` writes a file with all its tiles corrected, `companions` finds the
error, variance and weight images that belong to them, and `keywords` has the rules by which the
keywords of a header follow a correction.
"""

from __future__ import annotations

from .arrays import correct
from .files import write_corrected

__all__ = ["correct", "write_corrected"]
