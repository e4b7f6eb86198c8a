"""The report of a run, made from its folder alone."""

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

from tests.helpers.cli import Run
from tests.helpers.hostile import EVIL
from tests.helpers.synthetic_run import SyntheticRun, grid_graph, isolated_graph
from zemosaic.errors import UserError
from zemosaic.pictures import encode_png
from zemosaic.report.build import load_run, write_report
from zemosaic.report.charts import worker_lanes
from zemosaic.report.data import finite_median, job_outcome
from zemosaic.report.survey import ALADIN
from zemosaic.report.text import chi_square_sentences, headline
from zemosaic.runtime.events import JobEnded, JobError
from zemosaic.runtime.run_folder import claim


class Elements(HTMLParser):
    """Names and attributes of all elements of a page, and its text without scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] not in ("script", "style"):
            self.text += data


def synthetic_run(folder: Path, tiles: int = 12, pairs: int = 30, **options: Any) -> SyntheticRun:
    return SyntheticRun(folder, grid_graph(tiles, pairs), **options)


def page_of(folder: Path) -> str:
    return write_report(folder)[0].read_text(encoding="utf-8")


def chart_data_of(page: str) -> Any:
    """Parse the data of the charts, which must be strict JSON."""
    (text,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_a_run_writes_its_report(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """A run writes its report and prints the path; the page shows the result."""
    result = intertile(*write_tiles())
    path = tmp_path / "run" / "report.html"
    assert f"report       {path}\n" in result.out
    page = path.read_text(encoding="utf-8")
    assert "4 of 4 tiles matched in 1 group" in page
    assert page.count('<img alt="') == 4
    assert [tile["name"] for tile in chart_data_of(page)["tiles"]] == [
        f"tile_{k:04d}.fits" for k in range(4)
    ]


def test_the_corrected_mosaic_has_no_seams(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """For tiles with known gains and offsets the seam maps and steps shrink tenfold or more."""
    intertile(*write_tiles(electrons=2.0, tiles=6))
    run, mosaic = load_run(tmp_path / "run")
    assert mosaic is not None
    assert mosaic.after is not None
    assert mosaic.seams_after is not None
    assert np.nanmedian(mosaic.seams_before) > 10 * np.nanmedian(mosaic.seams_after)
    before = finite_median(run.finite_residuals("before"))
    after = finite_median(run.finite_residuals("after"))
    assert before > 10 * after


def test_the_page_of_sixteen_tiles_is_small(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """Pictures of nothing but noise, which compress worst, leave the page under 1.5 MB."""
    side = 16 * 96
    header = write_tiles(tiles=16, shape=(96, 96), rgb=True, electrons=2.0)
    assert intertile(*header, "--mosaic", tmp_path / "mosaic.fits").code == 0
    folder, rng = tmp_path / "run", np.random.default_rng(1)
    np.save(folder / "mosaic.npy", rng.normal(1000, 10, (2, 3, side, side)).astype(np.float32))
    assert write_report(folder)[0].stat().st_size < 1_500_000


def test_the_table_of_pairs_has_steps_and_residuals(tmp_path: Path) -> None:
    """The largest step comes first; the last column is the residual of level or gain in errors."""
    synthetic_run(tmp_path).write()
    rows = re.findall(r"<tr>(.*?)</tr>", page_of(tmp_path).partition("Table of the pairs")[2])
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows[1:29]]
    steps = [float(row[4]) for row in cells]
    assert steps == sorted(steps, reverse=True)
    for *_, residual, chi in cells:
        value, error = map(float, residual.split(" ± "))
        assert float(chi) >= 0.94 * abs(value) / error - 0.06  # or it is that of the gain
    assert any(abs(float(r.split(" ± ")[0])) > 5 * float(r.split(" ± ")[1]) for *_, r, _ in cells)


def test_no_report_writes_none_and_removes_the_old_one(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """With --no-report the folder keeps no page of an earlier run."""
    tiles = write_tiles()
    intertile(*tiles)
    result = intertile(*tiles, "--no-report")
    assert "report.html" not in result.out
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_report_that_cannot_be_written_costs_nothing_else(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """The run succeeds; one line names the page and the command that shows more."""
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    result = intertile(*write_tiles())
    assert result.code == 0
    (line,) = [line for line in result.err.splitlines() if "report.html" in line]
    assert "zemosaic report" in line
    assert (tmp_path / "run" / "corrections.ecsv").exists()


def test_a_run_without_solution_has_a_report_too(
    intertile: Callable[..., Run], tmp_path: Path
) -> None:
    """The report of a failed run names the tiles that cannot be read, with the reason."""
    (tmp_path / "a.fits").write_bytes(b"no FITS")
    result = intertile(tmp_path / "a.fits", tmp_path / "b.fits")
    assert result.code == 2
    text = Elements((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text
    assert "The run failed" in text
    assert "a.fits" in text
    assert "b.fits: no such file" in text


def test_the_command_writes_the_report_of_a_moved_folder(
    zemosaic: Callable[..., Run], tmp_path: Path
) -> None:
    """`zemosaic report RUN` needs nothing but the folder, wherever it has been moved to."""
    synthetic_run(tmp_path / "a").write()
    shutil.move(tmp_path / "a", tmp_path / "b")
    result = zemosaic("report", tmp_path / "b")
    assert result.code == 0
    assert result.out == f"{tmp_path / 'b' / 'report.html'}\n"
    assert '<img alt="' in (tmp_path / "b" / "report.html").read_text(encoding="utf-8")


def test_a_folder_without_a_run_is_refused(zemosaic: Callable[..., Run], tmp_path: Path) -> None:
    """The command exits with one line that names the problem."""
    result = zemosaic("report", tmp_path)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "holds no run" in result.err


def test_names_from_files_are_text_only(tmp_path: Path) -> None:
    """No name, header or error becomes an element or an attribute, or ends a script."""
    run = synthetic_run(tmp_path, 4, 6, names=EVIL)
    run.write()
    page = page_of(tmp_path)
    parsed = Elements(page)
    assert sum(tag == "script" for tag, _ in parsed.elements) == 3
    assert all("onerror" not in attributes for _, attributes in parsed.elements)
    images = [attributes for tag, attributes in parsed.elements if tag == "img"]
    assert all(str(image["src"]).startswith("data:image/webp;base64,") for image in images)
    assert EVIL[0] in parsed.text
    assert html.escape(EVIL[0]) in page
    assert [tile["name"] for tile in chart_data_of(page)["tiles"]][:3] == EVIL[:3]
    assert "<b>host</b>" in parsed.text


def test_the_page_makes_no_requests(tmp_path: Path) -> None:
    """No element loads from another site, and the page's policy forbids requests of scripts.

    The only link to another site is that to Aladin Lite, which a reader has to follow.
    """
    synthetic_run(tmp_path).write()
    elements = Elements(page_of(tmp_path)).elements
    policy = next(a["content"] for _, a in elements if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert "unsafe-inline" not in policy.split("style-src")[0]
    links = [attributes for tag, attributes in elements if tag == "a" and "rel" in attributes]
    assert [str(link["href"]).partition("?")[0] for link in links] == [ALADIN]
    assert links[0]["rel"] == "noreferrer"
    for tag, attributes in elements:
        for name in ("src", "href", "srcset", "action", "data"):
            value = None if attributes in links else attributes.get(name)
            assert value is None or not re.match(r"(?i)\s*(https?:|//|javascript:)", value), tag


def test_the_data_are_those_of_the_run(tmp_path: Path) -> None:
    """Outcomes, the bad tile, residuals and unmeasured gains are as the run was made."""
    synthetic_run(tmp_path, 40, 400).write()
    run, _ = load_run(tmp_path)
    outcomes = [pair.outcome for pair in run.pairs]
    assert (len(outcomes), outcomes.count("crashed"), outcomes.count("rejected")) == (400, 1, 5)
    assert [tile.name for tile in run.tiles if tile.suspect] == ["tile_0005.fits"]
    good = [pair for pair in run.pairs if 5 not in (pair.i, pair.j)]
    for name in ("level_chi", "gain_chi"):
        chis = [chi for pair in good for chi in pair.finite(name)]
        assert 0.8 < float(np.std(chis)) < 1.1
    assert sum(not pair.gain_measured for pair in run.pairs) == 8
    levels, gains = chi_square_sentences(run)
    assert "more than 6 errors off" in levels
    assert "as well as their errors predict" in gains
    assert headline(run) == "40 of 40 tiles matched in 1 group, in 12.9 s, but 1 pair failed"


def test_errors_that_are_too_small_are_recognized(tmp_path: Path) -> None:
    """The χ² sentence has the factor by which the errors are too small."""
    synthetic_run(tmp_path, 40, 400, faults=False, level_scatter=2.0).write()
    levels, _ = chi_square_sentences(load_run(tmp_path)[0])
    match = re.search(r"contradict one another by (\S+) times", levels)
    assert match is not None
    assert float(match[1]) == pytest.approx(2.0, rel=0.1)


def test_a_dead_run_shows_its_pairs_and_the_uncorrected_mosaic(tmp_path: Path) -> None:
    """The report has the measured pairs, times and mosaic, and no image after correction."""
    synthetic_run(tmp_path).write(until=17)
    page = page_of(tmp_path)
    text = Elements(page).text
    assert "The run died after 12.2 s while measuring pairs" in text
    assert "13 never measured" in text
    assert "To resume the run: " in text
    assert "--resume" in text
    assert page.count('<img alt="') == 2
    assert len(chart_data_of(page)["pairs"]) == 17


def test_tables_of_an_earlier_run_are_ignored(tmp_path: Path) -> None:
    """A run that died in a used folder shows no corrections of an earlier run."""
    synthetic_run(tmp_path).write()
    os.utime(tmp_path / "corrections.ecsv", (1_600_000_000, 1_600_000_000))
    assert not load_run(tmp_path)[0].solved


def test_a_missing_table_of_pairs_leaves_the_corrections(tmp_path: Path) -> None:
    """Without the table of pairs the report has the corrections and no residuals."""
    synthetic_run(tmp_path).write()
    (tmp_path / "pairs.ecsv").unlink()
    run, _ = load_run(tmp_path)
    assert run.solved
    assert all(len(tile.gain) == 1 for tile in run.tiles)
    assert run.finite_residuals("before")
    assert not run.finite_residuals("after")
    page_of(tmp_path)


def test_measurements_of_another_layout_are_ignored(tmp_path: Path) -> None:
    """A journal whose measurements another version packed has a report without residuals."""
    synthetic_run(tmp_path).write(until=17)
    journal = tmp_path / "journal.jsonl"
    # A line without a checksum is that of an earlier version.
    text = re.sub(r'"result":\[\["..', '"result":[["', journal.read_text())
    journal.write_text(re.sub(r',"crc":"[0-9a-f]{8}"}', "}", text))
    run, _ = load_run(tmp_path)
    assert len(run.pairs) == 17
    assert not run.finite_residuals("before")
    assert len(run.groups) == 3
    page_of(tmp_path)


def test_a_run_in_progress_shows_its_progress(tmp_path: Path) -> None:
    """While a process holds the folder, the headline has the stage and the ended jobs."""
    synthetic_run(tmp_path).write(until=17)
    with claim(tmp_path):
        text = headline(load_run(tmp_path)[0])
    assert text.startswith("The run is in progress, measuring pairs: 17 of 30 done after ")


def test_a_resumed_run_shows_the_pairs_of_both(
    intertile: Callable[..., Run], write_tiles: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """The report of a resumed run has the pairs that the earlier run measured."""
    tiles = write_tiles()
    intertile(*tiles, "--no-report")
    journal = tmp_path / "run" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"RunEnded"' not in line and '"solve"' not in line]
    last = max(k for k, line in enumerate(kept) if '"JobEnded"' in line)
    journal.write_text("".join(kept[:last]))
    result = intertile(*tiles, "--resume")
    run, mosaic = load_run(tmp_path / "run")
    assert "resumed" in result.err
    assert len(run.pairs) == 6
    assert all(math.isfinite(pair.max_chi) for pair in run.pairs)
    assert mosaic is not None
    assert mosaic.after is not None


def test_a_run_without_pairs_has_isolated_tiles(tmp_path: Path) -> None:
    """For tiles far from one another there is nothing to match, and each is isolated."""
    SyntheticRun(tmp_path, isolated_graph(4), faults=False).write()
    text = Elements(page_of(tmp_path)).text
    assert "Nothing to match: no two tiles overlap" in text
    assert text.count(": isolated, matched to no other tile") == 4
    assert "χ²" not in text


def test_missing_thumbnails_leave_the_rest_of_the_page(tmp_path: Path) -> None:
    """Without thumbnails, or with truncated ones, the page has no images and all the rest."""
    synthetic_run(tmp_path).write()
    path = tmp_path / "thumbs.npy"
    content = path.read_bytes()
    for size in (len(content) // 2, 100, 0):
        path.write_bytes(content[:size])
        page = page_of(tmp_path)
        assert '<img alt="' not in page
        assert "Where the time went" in page
    path.unlink()
    assert '<img alt="' not in page_of(tmp_path)


def pair_job(pid: int, start: int, end: int) -> JobEnded:
    return JobEnded(
        stage="pairs", index=1, done=1, total=1, outcome="measured", attributes={},
        submitted_ns=0, started_ns=start, ended_ns=end, pid=pid,
    )  # fmt: skip


def test_lanes_never_hold_two_jobs_at_once() -> None:
    """A process has one lane, and as many as it ran jobs at once if it ran them in threads."""
    lanes = worker_lanes(*np.array([(1, 0, 10), (2, 0, 5), (1, 10, 12), (2, 3, 9)]).T)
    assert lanes.names == ["worker 1", "worker 2", "worker 3"]
    assert lanes.rows == [0, 1, 0, 2]


def test_a_job_that_died_with_its_run_did_not_crash() -> None:
    """A pair in progress at the death of the run has that outcome, and no crash of its own."""
    job = replace(pair_job(1, 0, 5), outcome="crashed", error=JobError("RunDied", "at 'fit'"))
    assert job_outcome(job) == "in progress"
    assert job_outcome(replace(job, error=JobError("SIGSEGV", "killed"))) == "crashed"


def test_encoded_images_are_valid_png() -> None:
    """Size, depth, checksums and pixels are as the standard prescribes."""
    rgba = np.random.default_rng(1).integers(0, 255, (5, 7, 4)).astype(np.uint8)
    data = encode_png(rgba)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, offset = {}, 8
    while offset < len(data):
        (size,) = struct.unpack_from(">I", data, offset)
        body = data[offset + 4 : offset + 8 + size]
        assert struct.unpack_from(">I", data, offset + 8 + size)[0] == zlib.crc32(body)
        chunks[body[:4]] = body[4:]
        offset += 12 + size
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (7, 5, 8, 6, 0, 0, 0)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(5, -1)
    assert (rows[:, 0] == 0).all()
    assert (rows[:, 1:].reshape(5, 7, 4) == rgba).all()


@pytest.mark.parametrize("until", [None, 17])
def test_figures_as_png(tmp_path: Path, zemosaic: Callable[..., Run], until: int | None) -> None:
    """--png writes the figures for which the run has data, and prints their paths."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    synthetic_run(tmp_path, names=[f"$x_{k}$.fits" for k in range(12)]).write(until=until)
    result = zemosaic("report", tmp_path, "--png")
    assert result.code == 0, result.err
    names = {Path(line).name for line in result.out.splitlines()[1:]}
    always = {"mosaic.png", "seams.png", "sky.png", "time.png"}
    assert names == (always if until else always | {"corrections.png", "residuals.png"})
    for name in names:
        assert (tmp_path / "figures" / name).read_bytes()[:4] == b"\x89PNG"


def test_png_without_matplotlib_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one line with the command, after the page has been written."""
    synthetic_run(tmp_path).write()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'zemosaic\[plot\]'"):
        write_report(tmp_path, png=True)
    assert (tmp_path / "report.html").exists()
