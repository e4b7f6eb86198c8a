"""Small simulated tiles with known truth."""

from __future__ import annotations

from functools import cache
from typing import Any

from zemosaic.photometry.simulate import Scene, SimulatedTile, simulate

# Without noise and differences in seeing, so that results can be compared with the truth.
SMALL = {"tiles": 4, "shape": (96, 128), "overlap": 0.4, "electrons": 0, "seeing": 0, "stars": 4e-3}


@cache
def simulated(**changes: Any) -> tuple[SimulatedTile, ...]:
    """Return small tiles with their truth; by default four, of one channel."""
    return tuple(simulate(Scene(**{**SMALL, **changes})))
