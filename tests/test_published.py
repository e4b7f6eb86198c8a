"""Answers that others have published, and ours to the same questions.

Montage's two tutorials, the tests of reproject, and those of the sky matching of the JWST
pipelines. Where the pixels are not public the measured pairs are, and they go to our solver.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.wcs import WCS

from zemosaic import Settings, calibrate
from zemosaic.phase import PhaseSolution
from zemosaic.photometry.graph import potentials, vector_potentials
from zemosaic.photometry.measure import PairMeasurement
from zemosaic.photometry.solve import Solution, TileFrame, solve

PROJECT = Path(__file__).resolve().parent.parent
MONTAGE = Path(os.environ.get("ZEMOSAIC_SHARED_DATA", PROJECT.parent / "shared/data")) / "montage"

needs_montage = pytest.mark.skipif(
    not MONTAGE.is_dir(), reason=f"no published tables in {MONTAGE}; set ZEMOSAIC_SHARED_DATA"
)


@dataclass(frozen=True, eq=False)
class Fits:
    """Montage's planes through the differences of overlapping images, ``plus - minus``.

    Each is a·x + b·y + c in pixels from the mosaic's reference pixel.
    """

    plus: np.ndarray
    minus: np.ndarray
    slopes: np.ndarray
    level: np.ndarray  # at `centre`
    centre: np.ndarray
    pixels: np.ndarray
    slopes_cov: np.ndarray

    @classmethod
    def of(cls, rows: list[dict[str, str]]) -> Fits:
        def column(name: str) -> np.ndarray:
            return np.array([float(row[name]) for row in rows])

        centre = np.stack([column("xcenter"), column("ycenter")], axis=1)
        slopes = np.stack([column("a"), column("b")], axis=1)
        pixels = column("npixel")
        angle = np.deg2rad(column("boxang"))
        along = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        across = np.stack([-np.sin(angle), np.cos(angle)], axis=1)
        # Second moments of the box that Montage drew around the overlap.
        moments = sum(
            (column(side) ** 2 / 12)[:, None, None] * axis[:, :, None] * axis[:, None]
            for side, axis in (("boxwidth", along), ("boxheight", across))
        )
        # The published rms is that of the pixels' noise, but for pieces of one scan, which agree
        # to the last bit; those are taken to be as noisy as the others.
        noise = np.median(column("rms")[column("rms") > 0.1])
        cov = noise**2 * np.linalg.inv(moments * pixels[:, None, None])
        level = column("c") + (slopes * centre).sum(axis=1)
        ends = (column(name).astype(int) for name in ("plus", "minus"))
        return cls(*ends, slopes, level, centre, pixels, cov)

    def rest(self, planes: np.ndarray) -> np.ndarray:
        """What is left of the differences at their centres after planes (a, b, c) per image."""
        ones = np.ones((len(self.centre), 1))
        place = np.concatenate([self.centre, ones], axis=1)
        return self.level - (place * (planes[self.plus] - planes[self.minus])).sum(axis=1)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def read_ipac(path: Path) -> list[dict[str, str]]:
    """Rows of an IPAC table without spaces in its values."""
    lines = path.read_text(encoding="ascii").splitlines()
    names = [name.strip() for name in lines[0].strip("|").split("|")]
    return [
        dict(zip(names, line.split(), strict=True)) for line in lines if not line.startswith("|")
    ]


def m17() -> tuple[Fits, np.ndarray]:
    """The 60 printed pairs of 49 images of M17, and the published planes."""
    with (MONTAGE / "fits_60_of_128.csv").open(encoding="ascii", newline="") as file:
        fits = Fits.of(list(csv.DictReader(file)))
    published = np.full((49, 3), np.nan)
    with (MONTAGE / "corrections_49.csv").open(encoding="ascii", newline="") as file:
        for row in csv.DictReader(file):
            published[int(row["id"])] = [float(row[name]) for name in "abc"]
    return fits, published


def our_planes(fits: Fits, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Planes (a, b, c) of every image by our solver, and the chi of every pair."""
    noise = np.sqrt(np.linalg.det(fits.slopes_cov) ** 0.5)  # of a slope
    level_err = noise * np.sqrt(np.abs(np.linalg.inv(fits.slopes_cov)).max(axis=(1, 2)) * 0 + 1)
    del level_err
    ends = np.r_[fits.plus, fits.minus]
    count = np.bincount(ends, minlength=images)
    centre = np.stack(
        [np.bincount(ends, np.tile(fits.centre[:, k], 2), images) for k in (0, 1)], axis=1
    ) / np.maximum(count, 1)[:, None]
    planes, _, _, chi = vector_potentials(
        images, fits.plus, fits.minus, fits.level, 0.72 / np.sqrt(fits.pixels), fits.slopes,
        fits.slopes_cov, fits.centre, centre,
    )  # fmt: skip
    constant = planes[:, 0] - (planes[:, 1:] * centre).sum(axis=1)
    return np.concatenate([planes[:, 1:], constant[:, None]], axis=1), chi
