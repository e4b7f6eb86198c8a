"""Zemosaic: the intertile calibration phase of astronomical mosaics, traced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.1"

if TYPE_CHECKING:
    from zemosaic.phase import calibrate
    from zemosaic.photometry.fits_files import TileError
    from zemosaic.photometry.solve import Solution
    from zemosaic.photometry.tiles import Tile, open_tile, tile_from_array
    from zemosaic.settings import Settings

_HOMES = {
    "calibrate": "zemosaic.phase",
    "Solution": "zemosaic.photometry.solve",
    "Tile": "zemosaic.photometry.tiles",
    "TileError": "zemosaic.photometry.fits_files",
    "open_tile": "zemosaic.photometry.tiles",
    "tile_from_array": "zemosaic.photometry.tiles",
    "Settings": "zemosaic.settings",
}
__all__ = [
    "Settings",
    "Solution",
    "Tile",
    "TileError",
    "__version__",
    "calibrate",
    "open_tile",
    "tile_from_array",
]


def __getattr__(name: str) -> Any:
    # Imported when they are used: `import zemosaic` alone stays light.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
