"""Defects of simulated tiles: gradients, satellite trails, clouds and torn borders."""

from __future__ import annotations

import numpy as np

#: Largest absolute change of a sky gradient over a side, in ADU.
GRADIENT = 30
#: Peak in ADU and standard deviation in pixels of a satellite trail.
TRAIL_PEAK, TRAIL_SIGMA = 400.0, 2.0
#: Fraction of the light that a cloud absorbs at most, and its own light in ADU.
CLOUD_ABSORPTION, CLOUD_LIGHT = 0.6, 300.0


def add_gradient(image: np.ndarray, rng: np.random.Generator) -> None:
    """Add a random sky gradient to an image ``(C, H, W)``."""
    height, width = image.shape[1:]
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    image += rng.uniform(-GRADIENT, GRADIENT) * x + rng.uniform(-GRADIENT, GRADIENT) * y


def add_trail(image: np.ndarray, rng: np.random.Generator) -> None:
    """Add a satellite trail to an image ``(C, H, W)``."""
    height, width = image.shape[1:]
    y, x = np.mgrid[:height, :width]
    angle = rng.uniform(0, np.pi)
    x0, y0 = rng.uniform(0.3, 0.7, 2) * [width, height]
    distance = (x - x0) * np.sin(angle) - (y - y0) * np.cos(angle)
    image += TRAIL_PEAK * np.exp(-0.5 * (distance / TRAIL_SIGMA) ** 2)


def add_cloud(image: np.ndarray) -> None:
    """Cover an image ``(C, H, W)`` from one side with a cloud that absorbs light and glows."""
    height, width = image.shape[1:]
    y, x = np.mgrid[:height, :width]
    depth = 1 / (1 + np.exp((x - 0.5 * width + 0.2 * y) / (0.15 * width)))
    image *= 1 - CLOUD_ABSORPTION * depth
    image += CLOUD_LIGHT * depth**2


def tear_border(data: np.ndarray, rng: np.random.Generator) -> None:
    """Set up to a tenth of each side of ``(C, H, W)`` to NaN, slanted as in stacked frames."""
    height, width = data.shape[1:]
    y, x = np.mgrid[:height, :width]
    depths = rng.uniform(0.01, 0.1, 4)
    slants = rng.uniform(-0.03, 0.03, 4)
    # For each side: distance from it, length of that axis, position along the side, its length.
    sides = (
        (x, width, y, height),
        (width - 1 - x, width, y, height),
        (y, height, x, width),
        (height - 1 - y, height, x, width),
    )
    for (distance, length, position, side), depth, slant in zip(sides, depths, slants, strict=True):
        data[:, distance < length * np.maximum(depth + slant * position / side, 0)] = np.nan
