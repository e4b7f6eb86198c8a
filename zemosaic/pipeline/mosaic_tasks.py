"""The task of a block of the mosaic, apart: workers without a mosaic start sooner."""

from __future__ import annotations

from ..photometry.mosaic.canvas import Box
from ..photometry.mosaic.coadd import CoaddPlan, coadd_block
from ..photometry.mosaic.picture import PictureFile
from ..photometry.mosaic.store import MosaicFile, name_write_errors
from ..runtime.worker import timed_step


def coadd_to_file(plan: CoaddPlan, box: Box, file: MosaicFile, picture: PictureFile) -> int:
    """Coadd a block of the mosaic, write it to its places, and return its checksum.

    Raises
    ------
    TileError
        A tile cannot be read.
    UserError
        The block cannot be written.
    """
    with timed_step("coadd"):
        coadd = coadd_block(plan, box, picture.factor)
    with timed_step("write"):
        with name_write_errors(picture.path):
            picture.write(box, coadd)
        return file.write(box, coadd)
