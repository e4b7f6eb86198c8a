"""The mosaic: a coadd of corrected tiles, made block by block.

tiles -> `survey` (noise, borders and blank pixels of each) -> `canvas` (the pixels of the mosaic,
and its blocks) -> `resample` (a corrected tile on a block) -> `combine` -> `store` (the file).
`coadd` has it all in order.
"""

from __future__ import annotations

from .coadd import write_mosaic

__all__ = ["write_mosaic"]
