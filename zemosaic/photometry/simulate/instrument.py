"""The illumination and the glow that the instrument of a simulated mosaic leaves in its tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from .scene import RandomStream, Scene

#: Largest offset of the vignetting's centre along each axis, as a fraction of the side.
VIGNETTING_OFFSET = 0.04
#: Distance over which the glow falls by a factor e, as a fraction of the shorter side.
GLOW_REACH = 0.15


@dataclass(frozen=True, eq=False)
class Instrument:
    """The light and the glow that all tiles share.

    Parameters
    ----------
    flat, glow : ndarray
        ``(H, W)`` illumination, and glow in ADU of the data; ``()`` if they are 1 and 0.
    """

    flat: np.ndarray
    glow: np.ndarray


def make_instrument(scene: Scene) -> Instrument:
    """Return the instrument of a scene."""
    flat, glow = np.ones(()), np.zeros(())
    height, width = scene.shape
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    if scene.vignetting:
        rng = scene.random(RandomStream.INSTRUMENT)
        cx, cy = 0.5 + rng.uniform(-VIGNETTING_OFFSET, VIGNETTING_OFFSET, 2)
        square = (x - cx * (width - 1)) ** 2 + (y - cy * (height - 1)) ** 2
        square /= ((width - 1) ** 2 + (height - 1) ** 2) / 4  # 1 in the corners
        loss = (square + square**2) / 2 if scene.quartic else square
        flat = 1 - scene.vignetting * loss
    if scene.flat_residual and scene.flat_shared:
        flat = flat * _residual(scene, scene.random(RandomStream.FLAT))
    if scene.glow:
        distance = np.hypot(x - (width - 1), y - (height - 1) / 2)
        glow = scene.glow * np.exp(-distance / (GLOW_REACH * min(scene.shape)))
    return Instrument(flat, glow)


def own_flat(scene: Scene, index: int) -> np.ndarray:
    """Return the residual of the flat in one tile alone ``(H, W)``; ``()`` without one."""
    if scene.flat_residual and not scene.flat_shared:
        return _residual(scene, scene.random(RandomStream.FLAT, index))
    return np.ones(())


def _residual(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    pattern = gaussian_filter(rng.normal(size=scene.shape), scene.flat_scale)
    return 1 + scene.flat_residual * (pattern - pattern.mean()) / pattern.std()
