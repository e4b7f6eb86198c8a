"""Zemosaic: intertile calibration of astronomical mosaics, traced with OpenTelemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .errors import TileError
    from .photometry.solver.solve import Solution
    from .photometry.tiles.tile import Tile, tile_from_array
    from .photometry.tiles.tile_files import open_tile, open_tiles
    from .pipeline.calibrate import calibrate
    from .settings import Settings
    from .watching import watch, watched

_PUBLIC = {
    "calibrate": ".pipeline.calibrate",
    "Solution": ".photometry.solver.solve",
    "Tile": ".photometry.tiles.tile",
    "TileError": ".photometry.tiles.fits_files",
    "open_tile": ".photometry.tiles.tile_files",
    "open_tiles": ".photometry.tiles.tile_files",
    "tile_from_array": ".photometry.tiles.tile",
    "Settings": ".settings",
    "watch": ".watching",
    "watched": ".watching",
}
__all__ = [
    "Settings",
    "Solution",
    "Tile",
    "TileError",
    "__version__",
    "calibrate",
    "open_tile",
    "open_tiles",
    "tile_from_array",
    "watch",
    "watched",
]


def __getattr__(name: str) -> Any:
    # Public names are imported on first use, so that `import zemosaic` stays light.
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name], __name__), name)
