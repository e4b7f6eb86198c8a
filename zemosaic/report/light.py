"""Pictures of the illumination and the glow that the tiles of an instrument share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..pictures import encode_webp
from ..pipeline.illumination_text import describe_illuminations
from .data import RunData
from .images import CIVIDIS

LONGEST = 128  # pixels of a picture
MAX_CHANNELS = 3


@dataclass(frozen=True)
class LightImage:
    """A picture as a WebP file, its caption, and the values of its darkest and brightest colour."""

    picture: bytes
    caption: str
    low: float
    high: float


def light_sentences(run: RunData) -> list[str]:
    """Return a sentence for each illumination and each glow."""
    described = describe_illuminations(run.illuminations, run.unit)
    return [f"{name.capitalize()}: {text}." for name, text in described]


def light_images(run: RunData) -> Iterator[LightImage]:
    """Yield pictures of F and, if there is one, of the glow, of each instrument and channel.

    Their first row is the last one of the tile, as in a viewer of FITS files.
    """
    for light in run.illuminations:
        scale = max(1.0, max(light.shape) / LONGEST)
        height, width = (max(1, round(length / scale)) for length in light.shape)
        x, y = (2 * (np.arange(cells) + 0.5) / cells - 1 for cells in (width, height))
        images = zip(("Illumination", "Glow"), light.on_grid(x, y), strict=True)
        named = f" of {light.name}" if len(run.illuminations) > 1 else ""
        for title, values in images:
            for channel, image in list(zip(run.channel_names, values, strict=False))[:MAX_CHANNELS]:
                if np.ptp(image):
                    of_channel = f", {channel}" if run.n_channels > 1 else ""
                    unit = f", {run.unit}" if title == "Glow" and run.unit else ""
                    yield _picture(image, f"{title}{named}{of_channel}{unit}")


def _picture(image: np.ndarray, caption: str) -> LightImage:
    low, high = float(image.min()), float(image.max())
    steps = (image - low) / (high - low) * (len(CIVIDIS) - 1)
    rgb = [np.interp(steps, np.arange(len(CIVIDIS)), shades) for shades in CIVIDIS.T]
    rgba = np.stack([*rgb, np.full(image.shape, 255)], axis=-1).astype(np.uint8)
    return LightImage(encode_webp(rgba[::-1], LONGEST), caption, low, high)
