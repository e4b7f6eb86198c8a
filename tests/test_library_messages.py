"""Warnings and log records of libraries: they reach the log, and never standard output."""

from __future__ import annotations

import json
import logging
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy import log
from astropy.io import fits

from tests.helpers.cli import Run
from zemosaic.cli import run
from zemosaic.pipeline.calibrate import calibrate
from zemosaic.runtime.library_messages import collect_library_messages
from zemosaic.settings import Settings

WriteTiles = Callable[..., list[Path]]
SIP = "Inconsistent SIP distortion information"


@pytest.fixture
def tiles_with_odd_sip(write_tiles: WriteTiles) -> list[Path]:
    """Write tiles with SIP coefficients but no suffix -SIP, which astropy prints lines about."""
    paths = write_tiles()
    for path in paths:
        with fits.open(path, mode="update", memmap=False) as hdus:
            hdus[0].header.update({"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-6, "B_0_2": 1e-6})
    return paths


@pytest.mark.parametrize("pool", ["serial", "threads", "processes"])
def test_standard_output_is_json_alone(
    pool: str, tiles_with_odd_sip: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither the run nor its workers print lines of astropy to standard output or error."""
    options = ["-o", tmp_path / "run", "--pool", pool, "--mosaic", tmp_path / "m.fits", "--json"]
    assert run(["intertile", *map(str, [*options, "-q", *tiles_with_odd_sip])]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["exit_code"] == 0
    assert err == ""


def test_verbose_output_has_each_kind_once(
    tiles_with_odd_sip: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With --verbose a message that all tiles cause is printed once, on standard error."""
    arguments = ["intertile", "-v", "-o", tmp_path / "run", "--pool", "processes"]
    assert run([*map(str, [*arguments, *tiles_with_odd_sip])]) == 0
    out, err = capfd.readouterr()
    assert SIP not in out
    assert err.count(SIP) == 1
    assert SIP in (tmp_path / "run" / "journal.jsonl").read_text()


@pytest.mark.parametrize("pool", ["serial", "threads", "processes"])
def test_a_library_call_logs_messages_and_leaves_the_configuration_alone(
    pool: str,
    tiles_with_odd_sip: list[Path],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Messages go to our logger, once per kind; filters, handlers and levels stay as they were."""

    def configuration() -> tuple[object, ...]:
        root = logging.getLogger()
        show = warnings.showwarning
        return show, *(part for x in (log, root) for part in (x.level, *x.filters, *x.handlers))

    before = configuration()
    with caplog.at_level(logging.INFO, logger="zemosaic"):
        inside = configuration()
        calibrate(tiles_with_odd_sip, Settings(workers=1), pool, [])
        assert configuration() == inside
    assert configuration() == before
    assert capfd.readouterr().out == ""
    assert [SIP in record.message for record in caplog.records] == [True]


def test_messages_of_other_threads_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """While one thread collects its messages, another one prints its own as before."""
    with collect_library_messages() as messages:
        thread = threading.Thread(target=log.info, args=("of another thread",))
        thread.start()
        thread.join()
        log.info("of this thread")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            np.log(np.array(-1.0))
    out = capsys.readouterr().out
    assert "of another thread" in out
    assert "of this thread" not in out
    assert [message.source for message in messages] == ["astropy", "RuntimeWarning"]


def test_a_kind_has_no_details() -> None:
    """Messages that differ in numbers, names of files and quoted values are of one kind."""
    with collect_library_messages() as messages:
        log.info("a.fits: card 'FOO' on line 7 of /data/a.fits is odd")
        log.info("a.fits: card 'BAR' on line 12 of /data/b.fits is odd")
        log.info("a.fits: card 'BAR' is missing")
    assert len({message.kind for message in messages}) == 2


def test_warnings_about_headers_are_logged(
    intertile: Callable[..., Run], write_tiles: WriteTiles, tmp_path: Path
) -> None:
    """A header that astropy mends causes a line with --verbose, and none without."""
    paths = write_tiles()
    for path in paths:
        fits.delval(path, "RADESYS")
        fits.setval(path, "RADECSYS", value="ICRS")  # an old name of the keyword
    assert intertile(*paths).err == ""
    assert intertile("-v", *paths).err.count("FITSFixedWarning") == 1
