"""The page of a run, made from its folder alone."""

from __future__ import annotations

import html
import json
import math
import os
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser.runs import Invented, invented_graph
from tests.helpers.cli import Run
from tests.helpers.hostile import EVIL
from zemosaic.errors import UserError
from zemosaic.report.build import report, tell
from zemosaic.report.charts import worker_lanes
from zemosaic.report.data import outcome, typical
from zemosaic.report.images import png
from zemosaic.report.text import chi_words, headline
from zemosaic.runtime.events import JobEnded, JobError


class Elements(HTMLParser):
    """Names and attributes of all elements of a page, and the text outside of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] not in ("script", "style"):
            self.text += data


def invented(folder: Path, tiles: int = 12, pairs: int = 30, **how: Any) -> Invented:
    return Invented(folder, *invented_graph(tiles, pairs), **how)


def page_of(folder: Path) -> str:
    return report(folder)[0].read_text(encoding="utf-8")


def charts(page: str) -> Any:
    """The data of the charts, which must be JSON in the strict sense."""
    (text,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_a_run_makes_its_page(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """At the end of a run the page is there, says how it ended, and its path is told."""
    result = intertile(*write_tiles())
    path = tmp_path / "run" / "report.html"
    assert f"report       {path}\n" in result.out
    page = path.read_text(encoding="utf-8")
    assert "4 of 4 tiles matched in 1 group" in page
    assert page.count('<img alt="') == 4
    assert [tile["name"] for tile in charts(page)["tiles"]] == [
        f"tile_{k:04d}.fits" for k in range(4)
    ]


def test_the_page_after_is_better_than_before(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """On tiles with known gains and offsets the corrected mosaic has no seams, and says so."""
    intertile(*write_tiles(electrons=2.0, tiles=6))
    story, pictures = tell(tmp_path / "run")
    assert pictures is not None
    assert pictures.after is not None
    assert pictures.seams_after is not None
    assert np.nanmedian(pictures.seams_before) > 10 * np.nanmedian(pictures.seams_after)
    before = typical(x for pair in story.pairs for x in pair.before)
    after = typical(x for pair in story.pairs for x in pair.after)
    assert before > 10 * after


def test_no_report_makes_none_and_takes_the_old_one_away(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """With --no-report no page is left that could be taken for this run's."""
    tiles = write_tiles()
    intertile(*tiles)
    result = intertile(*tiles, "--no-report")
    assert "report.html" not in result.out
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_page_that_cannot_be_written_costs_nothing_else(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """The run is solved as ever; one line tells of the page, and how to see more."""
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    result = intertile(*write_tiles())
    assert result.code == 0
    (line,) = [line for line in result.err.splitlines() if "report.html" in line]
    assert "zemosaic report" in line
    assert (tmp_path / "run" / "corrections.ecsv").exists()


def test_a_run_without_solution_has_a_page_too(
    intertile: Callable[..., Run], tmp_path: Path
) -> None:
    """Tiles that cannot be read are named, with the reason, in the page of the failed run."""
    (tmp_path / "a.fits").write_bytes(b"no FITS")
    result = intertile(tmp_path / "a.fits", tmp_path / "b.fits")
    assert result.code == 2
    text = Elements((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text
    assert "The run failed" in text
    assert "a.fits" in text
    assert "b.fits: no such file" in text


def test_the_command_makes_the_same_page_again(
    zemosaic: Callable[..., Run], tmp_path: Path
) -> None:
    """`zemosaic report RUN` needs the folder and nothing else, wherever it has been moved to."""
    invented(tmp_path / "a").write()
    shutil.move(tmp_path / "a", tmp_path / "b")
    result = zemosaic("report", tmp_path / "b")
    assert result.code == 0
    assert result.out == f"{tmp_path / 'b' / 'report.html'}\n"
    assert '<img alt="' in (tmp_path / "b" / "report.html").read_text(encoding="utf-8")


def test_a_folder_without_a_run_is_refused(zemosaic: Callable[..., Run], tmp_path: Path) -> None:
    """One line says what is wrong with it."""
    result = zemosaic("report", tmp_path)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "holds no run" in result.err


def test_names_from_files_are_text_only(tmp_path: Path) -> None:
    """No name, header or error becomes an element, an attribute, or the end of a script."""
    run = invented(tmp_path, 4, 6, names=EVIL)
    run.write()
    page = page_of(tmp_path)
    elements = Elements(page)
    assert sum(tag == "script" for tag, _ in elements.found) == 3
    assert all("onerror" not in attributes for _, attributes in elements.found)
    images = [attributes for tag, attributes in elements.found if tag == "img"]
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in images)
    assert EVIL[0] in elements.text
    assert html.escape(EVIL[0]) in page
    assert [tile["name"] for tile in charts(page)["tiles"]][:3] == EVIL[:3]
    assert "<b>host</b>" in elements.text


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    """No element fetches from elsewhere, and the page's policy forbids it to any script."""
    invented(tmp_path).write()
    page = page_of(tmp_path)
    policy = next(a["content"] for _, a in Elements(page).found if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert "unsafe-inline" not in policy.split("style-src")[0]
    for tag, attributes in Elements(page).found:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or not re.match(r"(?i)\s*(https?:|//|javascript:)", value), tag


def test_the_story_holds_what_was_invented(tmp_path: Path) -> None:
    """Failed and rejected pairs, the tile that is bad, what is left: as they were made up."""
    run = invented(tmp_path, 40, 400)
    run.write()
    story, _ = tell(tmp_path)
    outcomes = [pair.outcome for pair in story.pairs]
    assert (len(outcomes), outcomes.count("crashed"), outcomes.count("rejected")) == (400, 1, 5)
    assert [tile.name for tile in story.tiles if tile.suspect] == ["tile_0005.fits"]
    good = [p for p in story.pairs if 5 not in (p.i, p.j)]
    for name in ("level_chi", "gain_chi"):
        chi = [x for pair in good for x in getattr(pair, name) if math.isfinite(x)]
        assert 0.8 < float(np.std(chi)) < 1.1
    assert sum(not pair.gain_measured for pair in story.pairs) == 8
    levels, gains = chi_words(story)
    assert "more than 6 errors off" in levels
    assert "as well as their errors predict" in gains
    assert headline(story) == "40 of 40 tiles matched in 1 group, in 12.9 s, but 1 pair failed"


def test_errors_that_are_too_small_are_said_to_be(tmp_path: Path) -> None:
    """χ² tells a scientist by how much the errors must grow."""
    run = invented(tmp_path, 40, 400, faults=False)
    run.understated = 2.0
    run.write()
    levels, _ = chi_words(tell(tmp_path)[0])
    found = re.search(r"contradict one another by (\S+) times", levels)
    assert found is not None
    assert float(found[1]) == pytest.approx(2.0, rel=0.1)


def test_a_dead_run_shows_what_it_has(tmp_path: Path) -> None:
    """Its pairs, times and the mosaic before are there, and no picture is called after."""
    invented(tmp_path, 12, 30).write(until=17)
    page = page_of(tmp_path)
    text = Elements(page).text
    assert "The run died after 12.2 s while measuring pairs" in text
    assert "13 never measured" in text
    assert "--resume" in text
    assert page.count('<img alt="') == 2
    assert len(charts(page)["pairs"]) == 17


def test_tables_of_an_earlier_run_are_not_taken(tmp_path: Path) -> None:
    """A run that died in a used folder shows no corrections of the one before."""
    invented(tmp_path).write()
    old = tmp_path / "corrections.ecsv"
    os.utime(old, (1_600_000_000, 1_600_000_000))
    assert not tell(tmp_path)[0].solved


def test_a_run_that_goes_on_is_told_as_such(tmp_path: Path) -> None:
    """The page of a run whose folder is held says that it goes on, and how far it is."""
    from zemosaic.runtime.run_folder import claim

    invented(tmp_path).write(until=17)
    with claim(tmp_path):
        assert headline(tell(tmp_path)[0]).startswith(
            "The run goes on while measuring pairs: 17 of"
        )


def test_a_resumed_run_shows_the_pairs_of_both(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """What an earlier run measured is in the page of the run that took it up."""
    tiles = write_tiles()
    intertile(*tiles, "--no-report")
    lines = (tmp_path / "run" / "journal.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"RunEnded"' not in line and '"solve"' not in line]
    last = max(k for k, line in enumerate(kept) if '"JobEnded"' in line)
    (tmp_path / "run" / "journal.jsonl").write_text("".join(kept[:last]))
    result = intertile(*tiles, "--resume")
    story, pictures = tell(tmp_path / "run")
    assert "resumed" in result.err
    assert len(story.pairs) == 6
    assert all(math.isfinite(pair.worst) for pair in story.pairs)
    assert pictures is not None
    assert pictures.after is not None


def test_no_pair_at_all(tmp_path: Path) -> None:
    """Tiles far from one another: nothing to match, each is said to stand alone."""
    centres, sizes, pairs = invented_graph(4, 6)
    Invented(tmp_path, 20 * centres, sizes, pairs[:0], faults=False).write()
    page = page_of(tmp_path)
    text = Elements(page).text
    assert "Nothing to match: no two tiles overlap" in text
    assert text.count("stands alone") == 4
    assert "χ²" not in text


def test_previews_that_are_gone_leave_the_page(tmp_path: Path) -> None:
    """Without thumbnails, or with torn ones, the page has no pictures and all the rest."""
    invented(tmp_path).write()
    path = tmp_path / "thumbs.npy"
    whole = path.read_bytes()
    for size in (len(whole) // 2, 100, 0):
        path.write_bytes(whole[:size])
        page = page_of(tmp_path)
        assert '<img alt="' not in page
        assert "Where the time went" in page
    path.unlink()
    assert '<img alt="' not in page_of(tmp_path)


def job(pid: int, start: int, end: int) -> JobEnded:
    return JobEnded(
        stage="pairs", index=1, done=1, total=1, outcome="measured", attributes={},
        submitted_ns=0, started_ns=start, ended_ns=end, pid=pid,
    )  # fmt: skip


def test_lanes_never_hold_two_jobs_at_once() -> None:
    """A process has a lane; threads of one process, which run at once, have one each."""
    names, rows = worker_lanes([job(1, 0, 10), job(2, 0, 5), job(1, 10, 12), job(2, 3, 9)])
    assert names == ["worker 1", "worker 2", "worker 3"]
    assert rows == [0, 1, 0, 2]


def test_what_the_end_cut_short_did_not_fail() -> None:
    """A pair under way when the run died is told as that, and not as a crash of its own."""
    cut = replace(job(1, 0, 5), outcome="crashed", error=JobError("RunDied", "at 'fit'"))
    assert outcome(cut) == "under way"
    assert outcome(replace(cut, error=JobError("SIGSEGV", "killed"))) == "crashed"


def test_png_is_a_png() -> None:
    """Size, depth, checksums and pixels, read back by the standard."""
    pixels = np.random.default_rng(1).integers(0, 255, (5, 7, 4)).astype(np.uint8)
    data = png(pixels)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(data):
        (size,) = struct.unpack_from(">I", data, place)
        body = data[place + 4 : place + 8 + size]
        assert struct.unpack_from(">I", data, place + 8 + size)[0] == zlib.crc32(body)
        chunks[body[:4]] = body[4:]
        place += 12 + size
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (7, 5, 8, 6, 0, 0, 0)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(5, -1)
    assert (rows[:, 0] == 0).all()
    assert (rows[:, 1:].reshape(5, 7, 4) == pixels).all()


@pytest.mark.parametrize("until", [None, 17])
def test_figures_as_png(tmp_path: Path, zemosaic: Callable[..., Run], until: int | None) -> None:
    """--png writes those figures that the run has something for, and tells their paths."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    invented(tmp_path, names=[f"$x_{k}$.fits" for k in range(12)]).write(until=until)
    result = zemosaic("report", tmp_path, "--png")
    assert result.code == 0, result.err
    names = {Path(line).name for line in result.out.splitlines()[1:]}
    always = {"mosaic.png", "seams.png", "sky.png", "time.png"}
    assert names == (always if until else always | {"corrections.png", "residuals.png"})
    for name in names:
        assert (tmp_path / "figures" / name).read_bytes()[:4] == b"\x89PNG"


def test_png_without_matplotlib_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the command, after the page has been written."""
    invented(tmp_path).write()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'zemosaic\[plot\]'"):
        report(tmp_path, png=True)
    assert (tmp_path / "report.html").exists()
