"""The stage of the mosaic: killed, interrupted, stuck, or without space, and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tests.faults.command import Start, events_of
from zemosaic.runtime.events import Heartbeat, JobEnded, JobSubmitted, RunEnded, StageEnded

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")


def planes(path: Path) -> list[bytes]:
    with fits.open(path) as hdus:
        return [hdu.data.tobytes() for hdu in hdus]


@pytest.fixture
def whole(start: Start, tmp_path: Path) -> Path:
    """Return the mosaic of an uninterrupted run."""
    path = tmp_path / "whole.fits"
    done = start("--mosaic", path, folder=tmp_path / "whole", pool="serial").end()
    assert done.code == 0, done.err
    assert len(events_of(tmp_path / "whole", JobEnded, "blocks")) > 4
    return path


@pytest.mark.parametrize("pool", ["processes", "serial"])
def test_a_killed_mosaic_is_resumed_with_the_same_bits(
    start: Start, tmp_path: Path, whole: Path, pool: str, examine: Any
) -> None:
    """Blocks that are whole are kept; the autopsy counts them; no temporary file stays."""
    output = tmp_path / "out" / "m.fits"
    run = start("--mosaic", output, pool=pool, slow=0.1)
    run.wait_for(lambda: len(run.events(JobEnded, "blocks")) >= 2)
    run.kill()
    assert run.end().code == -9
    kept = {event.index for event in run.events(JobEnded, "blocks")}
    assert [path.name for path in output.parent.iterdir()] == [".unfinished.m.fits"]
    told = examine("autopsy", run.folder).out
    assert f"{len(kept)} of " in told
    assert "blocks of the mosaic written" in told
    assert "died" in told
    assert "in stage blocks" in told
    (output.parent / ".999999999-0123abcd.part.m.fits").write_text("of a process that died")
    resumed = start("--mosaic", output, "--resume", pool=pool).end()
    assert resumed.code == 0, resumed.err
    assert f"resumed: {len(kept)} of" in resumed.err
    begun = {event.index for event in events_of(run.folder, JobSubmitted, "blocks")}
    assert not begun & kept
    assert planes(output) == planes(whole)
    assert output.with_suffix(".png").read_bytes() == whole.with_suffix(".png").read_bytes()
    assert sorted(path.name for path in output.parent.iterdir()) == ["m.fits", "m.png"]


def test_a_block_that_lost_bytes_is_made_again(start: Start, tmp_path: Path, whole: Path) -> None:
    """A block of the unfinished file that is not as it was written counts as missing."""
    output = tmp_path / "m.fits"
    run = start("--mosaic", output, pool="serial", slow=0.1)
    run.wait_for(lambda: len(run.events(JobEnded, "blocks")) >= 3)
    run.kill()
    run.end()
    with (tmp_path / ".unfinished.m.fits").open("r+b") as file:
        file.seek(5 * 2880)
        file.write(bytes(2880))
    assert start("--mosaic", output, "--resume", pool="serial").end().code == 0
    assert planes(output) == planes(whole)


def test_ctrl_c_leaves_the_blocks_for_the_next_run(start: Start, tmp_path: Path) -> None:
    """It exits with 130 as in every stage, and the mosaic of an earlier run stays."""
    output = tmp_path / "m.fits"
    output.write_text("of an earlier run")
    run = start("--mosaic", output, slow=0.2)
    run.wait_for(lambda: len(run.events(JobEnded, "blocks")) >= 1)
    run.kill(signal.SIGINT)
    assert run.end().code == 130
    assert run.events(RunEnded)[-1].state == "interrupted"
    assert output.read_text() == "of an earlier run"
    assert start("--mosaic", output, "--resume").end().code == 0
    assert np.isfinite(fits.getdata(output)).any()


def test_a_block_that_hangs_times_out(start: Start, tmp_path: Path) -> None:
    """Heartbeats name its tiles; the others are made; the next run repeats it alone."""
    output = tmp_path / "m.fits"
    run = start("--mosaic", output, "--tile-timeout", 3, fault="gil@block0-0")
    done = run.end()
    assert done.code == 1
    assert "block 1 (tile_" in done.err
    assert "timed out after 3 s" in done.err
    failed = next(line for line in done.out.splitlines() if line.startswith("failed "))
    assert "m.fits: is not written, because 1 of" in failed
    beats = run.events(Heartbeat, "blocks")
    assert any(beat.running_indices == [1] and beat.running_steps for beat in beats)
    assert run.events(StageEnded, "mosaic")
    assert run.events(RunEnded)[-1].state == "finished"
    assert not output.exists()
    again = start("--mosaic", output, "--resume").end()
    assert again.code == 0, again.err
    assert [event.index for event in events_of(run.folder, JobEnded, "blocks")] == [1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 160 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "none", str(place)]
    if (
        sys.platform != "linux"
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("needs to mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_named(start: Start, small_disk: Path) -> None:
    """The line has the name of the mosaic; tables and report are written, and the code is 1."""
    output = small_disk / "m.fits"
    run = start("--mosaic", output, pool="serial")
    done = run.end()
    assert done.code == 1
    assert f"{output}: needs " in done.err
    assert "None" not in done.err
    assert f"failed       {output}: needs" in done.out
    assert (run.folder / "corrections.ecsv").exists()
    assert not output.exists()


def test_the_size_is_checked_before_the_tiles_are_read(
    start: Start, tmp_path: Path, tiles: list[str]
) -> None:
    """A tile far from the others is named with exit code 2, before any preview is made."""
    far = tmp_path / "far99.fits"
    data, header = fits.getdata(tiles[0], header=True)
    header["CRVAL1"], header["CRVAL2"] = header["CRVAL1"] - 40, header["CRVAL2"] - 40
    fits.writeto(far, data, header)
    run = start("--mosaic", tmp_path / "m.fits", tiles=[*tiles, str(far)], pool="serial")
    done = run.end()
    assert done.code == 2
    assert "pixels: tile far99.fits lies " in done.err
    assert not run.events(JobEnded, "tiles")
