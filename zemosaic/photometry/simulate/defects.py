"""Defects of simulated tiles: their own light, satellite trails, clouds and torn borders."""

from __future__ import annotations

import numpy as np

#: Default of the largest change of a sky gradient between two corners, in ADU.
GRADIENT = 60.0
#: Growth of the light of a lamp: exp(LAMP_GROWTH) over half a side.
LAMP_GROWTH = 1.3
#: Peak in ADU and standard deviation in pixels of a satellite trail.
TRAIL_PEAK, TRAIL_SIGMA = 400.0, 2.0
#: Largest fraction of the light absorbed by a cloud, and its own light in ADU.
CLOUD_ABSORPTION, CLOUD_LIGHT = 0.6, 300.0


def add_gradient(image: np.ndarray, rng: np.random.Generator, change: bool | float) -> None:
    """Add a random sky gradient to an image ``(C, H, W)``.

    It changes by at most `change` ADU between two corners.
    """
    height, width = image.shape[1:]
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    slope = (GRADIENT if change is True else change) / 2
    image += rng.uniform(-slope, slope) * x + rng.uniform(-slope, slope) * y


def add_surface(image: np.ndarray, rng: np.random.Generator, scale: float) -> None:
    """Add a random surface of second order to an image ``(C, H, W)``.

    Its five coefficients have a standard deviation of `scale` ADU in coordinates from -1 to 1.
    """
    x, y = _centred(image)
    terms = (x, y, x**2, x * y, y**2)
    for coefficient, term in zip(rng.normal(scale=scale, size=5), terms, strict=True):
        image += coefficient * term


def add_lamp(image: np.ndarray, rng: np.random.Generator, level: float) -> None:
    """Add the light of a lamp in a random direction, `level` ADU at the centre ``(C, H, W)``."""
    x, y = _centred(image)
    angle = rng.uniform(0, 2 * np.pi)
    image += level * np.exp(LAMP_GROWTH * (x * np.cos(angle) + y * np.sin(angle)))


def _centred(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x ``(1, W)`` and y ``(H, 1)`` from -1 to 1 of the pixels of an image."""
    height, width = image.shape[1:]
    return np.linspace(-1, 1, width)[None, :], np.linspace(-1, 1, height)[:, None]


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


def tear_border(data: np.ndarray, rng: np.random.Generator, blank: float) -> None:
    """Set up to a tenth of each side of ``(C, H, W)`` to blank, slanted as in stacked frames."""
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
        data[:, distance < length * np.maximum(depth + slant * position / side, 0)] = blank
