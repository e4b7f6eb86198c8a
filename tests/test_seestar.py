"""Real frames: nine of M94 from a Seestar S50, taken in three nights with different skies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from tests.helpers.cli import Run

PROJECT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ZEMOSAIC_SHARED_DATA", PROJECT.parent / "shared" / "data"))
FRAMES = SHARED / "seestar_m94_rgb"

pytestmark = pytest.mark.skipif(
    not FRAMES.is_dir(), reason=f"no real frames in {FRAMES}; set ZEMOSAIC_SHARED_DATA"
)


def test_levels_of_three_nights_agree_with_montage_and_reproject(
    intertile: Callable[..., Run], tmp_path: Path
) -> None:
    """Nine RGB cubes with SIP give 27 rows; green levels agree with two published programs.

    With offset-only models for the green channel of the first frame of each night, Montage gives
    s2 - s1 = -292.8 ADU and s3 - s1 = +294.2 ADU, reproject -292.9 and +294.4 ADU. An offset is
    the negative of a difference in brightness.
    """
    files = sorted(FRAMES.glob("*.fits"))
    # Heartbeats would be lines as well, on a slow machine.
    result = intertile(*files, "--model", "offset", "--heartbeat", 3600, pool="threads")
    assert result.code == 0
    # By their stars the gains of the nights differ by factors of 1.1 to 1.4.
    assert "and the model offset holds them at 1" in result.err
    assert result.err.count("\n") == 1
    assert "9 of 9, in 1 group\n" in result.out
    assert ": 36 measured\n" in result.out
    corrections = Table.read(tmp_path / "run" / "corrections.ecsv", format="ascii.ecsv")
    assert len(corrections) == 27
    assert corrections["file"].tolist() == [path.name for path in files for _ in range(3)]
    assert (corrections["gain"] == 1).all()
    green = corrections[corrections["channel"] == 1]
    night = np.array([name.split("_")[1] for name in green["file"]])
    offset = {name: float(green["offset"][night == name][0]) for name in ("s1", "s2", "s3")}
    assert offset["s1"] - offset["s2"] == pytest.approx(-292.8, abs=3)
    assert offset["s1"] - offset["s3"] == pytest.approx(294.2, abs=3)


def test_gains_of_nights_agree_with_star_photometry(
    intertile: Callable[..., Run], tmp_path: Path
) -> None:
    """By default, planes are selected, and the nights' gains are those of star photometry.

    The photometry of 153 pairs of frames, with about 10 stars each, closes to 1.3 to 2.3 %. The
    gains of all channels agree with it to twice as much.
    """
    result = intertile(*sorted(FRAMES.glob("*.fits")), pool="threads")
    assert "gain+plane in 1 group" in result.out
    corrections = Table.read(tmp_path / "run" / "corrections.ecsv", format="ascii.ecsv")
    gains = np.array(corrections["gain"]).reshape(3, 3, 3)  # night, frame, channel
    night_gain = np.exp(np.log(gains).mean(axis=1))
    assert night_gain[0] / night_gain[1] == pytest.approx([1.18, 1.22, 1.32], rel=0.045)
    assert night_gain[0] / night_gain[2] == pytest.approx([1.35, 1.36, 1.41], rel=0.045)
