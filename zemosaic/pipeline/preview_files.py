"""The places of the previews and the stars of the tiles during a run."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime.kept_files import KeptFile
from ..runtime.make_pool import is_dask
from ..runtime.pool import Pool

#: Places of previews: the run folder, or the workers that make them.
PLACES = ("folder", "workers")


def check_previews(place: str, pool: Any, *, has_mosaic: bool) -> None:
    """Raise `UserError` if previews cannot be at a place, with this pool or with a mosaic."""
    if place not in PLACES:
        raise UserError(f"previews is {place!r}; choose one of {', '.join(PLACES)}")
    if place == "folder":
        return
    if not (is_dask(pool) or getattr(pool, "keeps_files", False)):
        raise UserError(
            "only the workers of a Dask cluster keep previews; choose --pool dask or "
            "dask://HOST:PORT, or leave out --previews workers"
        )
    if has_mosaic:
        raise UserError(
            "a mosaic needs a run folder that all workers share; leave out --mosaic or "
            "--previews workers"
        )


@dataclass(frozen=True, eq=False)
class PreviewFiles:
    """The files of the previews and the stars of all tiles.

    Parameters
    ----------
    folder : pathlib.Path
        Their folder, or the folder of the copies needed by this process.
    keeper : Pool or None
        The pool with the workers that keep them; None if all workers share the folder.
    """

    folder: Path
    keeper: Pool | None = None
    _run: str = field(default_factory=lambda: uuid.uuid4().hex)  # a pool may have several runs
    _again: set[int] = field(default_factory=set)

    def make_again(self, index: int) -> None:
        """Make other files of a tile, with other names, so that no worker takes the first ones."""
        self._again.add(index)

    def preview(self, index: int) -> Path | KeptFile:
        """Return the preview of a tile, as an argument of tasks."""
        return self._file(index, "preview")

    def stars(self, index: int) -> Path | KeptFile:
        """Return the stars of a tile, as an argument of tasks."""
        return self._file(index, "stars.npz")

    def _file(self, index: int, ending: str) -> Path | KeptFile:
        if self.keeper is None:
            return self.folder / f"{index}.{ending}"
        turn = 2 if index in self._again else 1
        return KeptFile(f"{index}.{self._run}-{turn}.{ending}")

    def here(self, file: Path | KeptFile) -> Path:
        """Return the path of a file in this process."""
        if self.keeper is not None and isinstance(file, KeptFile):
            return self.keeper.find_kept(file)
        return Path(file)
