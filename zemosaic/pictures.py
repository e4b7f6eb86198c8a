"""Pictures of images of the sky: their stretch, and PNG and WebP files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO

import numpy as np

BLACK, WHITE = 2.0, 99.7  # black: widths of the sky below its level; white: percentile
MIN_WHITE = 6.0  # widths above the sky level, so noise looks like noise
WEBP_QUALITY = 70
WEBP_METHOD = 2  # in half the time of the usual 4, files are a tenth larger
SOFTENING = 0.1  # fraction of the range in which the asinh stretch is linear


def stretch(images: Sequence[np.ndarray], levels_of: np.ndarray) -> list[np.ndarray]:
    """Return images ``(C, h, w)`` with one asinh stretch, by the levels of one of them.

    Three channels are red, green and blue; of any other number the first is shown in grey.

    Returns
    -------
    list of ndarray
        ``(h, w, 4)`` uint8 red, green, blue and alpha, which is 0 where an image is NaN.
    """
    rgba = []
    for image in images:
        shades = [
            _scaled(image[channel], levels_of[channel])
            for channel in range(3 if len(image) == 3 else 1)
        ]
        valid = np.isfinite(shades).any(axis=0)
        rgb = [np.nan_to_num(255 * shade) for shade in shades] * (3 // len(shades))
        rgba.append(np.stack([*rgb, np.where(valid, 255, 0)], axis=-1).astype(np.uint8))
    return rgba


def _scaled(image: np.ndarray, levels_of: np.ndarray) -> np.ndarray:
    """Scale an image ``(h, w)`` to 0..1 by the levels of another one."""
    finite = levels_of[np.isfinite(levels_of)]
    if not len(finite):
        return np.full(image.shape, np.nan)
    sky = float(np.median(finite))
    width = 1.4826 * float(np.median(np.abs(finite - sky)))
    low = sky - BLACK * width
    high = max(float(np.percentile(finite, WHITE)), sky + MIN_WHITE * width)
    high = high if high > low else low + 1e-6
    # As AsinhStretch and ManualInterval of astropy.visualization, which imports matplotlib.
    scaled = np.clip((image.astype(np.float64) - low) / (high - low), 0.0, 1.0)
    return np.arcsinh(scaled / SOFTENING) / np.arcsinh(1 / SOFTENING)


def encode_png(rgba: np.ndarray) -> bytes:
    """Return ``(h, w, 4)`` uint8 red, green, blue and alpha as a PNG file (ISO/IEC 15948)."""
    height, width, _ = rgba.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    rows = np.zeros((height, 1 + 4 * width), dtype=np.uint8)  # column 0 is the filter type: none
    rows[:, 1:] = rgba.reshape(height, -1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows.tobytes(), 3))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def encode_webp(rgba: np.ndarray, longest: int) -> bytes:
    """Return ``(h, w, 4)`` uint8 as a WebP file of at most `longest` pixels along a side.

    Noise, which PNG cannot compress, makes a PNG file twenty times as large.
    """
    # Without the plugin, Pillow would import the plugins of all its formats.
    from PIL import Image, WebPImagePlugin  # noqa: F401

    image, file = Image.fromarray(rgba), BytesIO()
    image.thumbnail((longest, longest))
    image.save(file, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD)
    return file.getvalue()
