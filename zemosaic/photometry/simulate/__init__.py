"""Simulated tiles with known truth: stars and nebulosity with a gain, an offset and a seeing.

The scene is fixed on the sky, and each tile samples it through its own WCS. Two tiles therefore
show the same sky, and nothing is resampled. The truth has the form of a solution: the `gain` and
`offset` of ``corrected = gain * data + offset``, which transform a tile into the scene.
"""

from __future__ import annotations

from .render import SimulatedTile, simulate
from .scene import Scene
from .truth import align_truth

__all__ = ["Scene", "SimulatedTile", "align_truth", "simulate"]
