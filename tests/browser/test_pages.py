"""The run page in a real browser: Debian's Chromium, without a screen and without a network.

Needs the extra ``browser`` and, on Debian, ``apt-get install chromium chromium-driver``.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.runs import Invented, graph_of, invented_graph
from tests.helpers.hostile import EVIL
from zemosaic.report.build import report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(
        not BROWSER or not DRIVER, reason="no browser: apt-get install chromium chromium-driver"
    ),
    # Selenium leaves its sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PROJECT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("ZEMOSAIC_SHARED_DATA", PROJECT.parent / "shared" / "data"))
PATIENCE = 60.0  # seconds for a chart on a machine that does other things


class Page:
    """A page in the browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, width: int = 1280, dark: bool = False) -> None:
        """Open a page and draw all its charts, as somebody who reads it to its end."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(path.resolve().as_uri())
        for name in self.charts:
            self.run(f"document.getElementById('{name}').scrollIntoView({{block: 'center'}})")
            self.wait(f"return !!document.getElementById('{name}').dataset.drawn")

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def wait(self, script: str) -> None:
        until = time.monotonic() + PATIENCE
        while not self.run(script):
            assert time.monotonic() < until, script
            time.sleep(0.02)

    @property
    def charts(self) -> list[str]:
        return self.run("return [...document.querySelectorAll('.chart')].map(c => c.id)")

    @property
    def complaints(self) -> list[str]:
        """What the console says."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    @property
    def requests(self) -> list[str]:
        """What was asked for besides the page itself and what it holds."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages
                 if m["method"] == "Network.requestWillBeSent"]  # fmt: skip
        return [url for url in asked if not url.startswith(("data:", "file:", "about:"))]

    def hover(self, chart: str, trace: int, point: int) -> str:
        """Point at a datum; what the page says of it."""
        self.run(f"document.getElementById('{chart}').scrollIntoView({{block: 'center'}})")
        x, y = self.run(f"""
            const place = document.getElementById("{chart}"), full = place._fullLayout;
            const trace = place.data[{trace}], box = place.getBoundingClientRect();
            const side = trace.x[{point}];
            const value = trace.base ? trace.base[{point}] + side / 2 : side;
            return [box.left + full.xaxis._offset + full.xaxis.d2p(value),
                    box.top + full.yaxis._offset + full.yaxis.d2p(trace.y[{point}])];""")
        until = time.monotonic() + PATIENCE
        while not self.run("return document.getElementById('tip').style.display === 'block'"):
            assert time.monotonic() < until, f"{chart}: nothing is said at {x}, {y}"
            for shift in (30, 0):  # the pointer comes from somewhere
                move = {"type": "mouseMoved", "x": x + shift, "y": y + shift}
                self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", move)
                time.sleep(0.15)
        return str(self.run("return document.getElementById('tip').textContent"))


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    with webdriver.Chrome(options=options, service=service) as driver:
        yield Page(driver)


def good(folder: Path) -> None:
    centres, sizes, pairs = invented_graph(12, 30)
    Invented(folder, centres, sizes, pairs, channels=3, faults=False).write()


def faulty(folder: Path) -> None:
    names = [*EVIL, *(f"{'a_very_long_name_' * 6}{k}.fits" for k in range(8))]
    Invented(folder, *invented_graph(12, 30), names=names).write()


def dead(folder: Path) -> None:
    Invented(folder, *invented_graph(12, 30)).write(until=17)


def empty(folder: Path) -> None:
    centres, sizes, pairs = invented_graph(4, 6)
    Invented(folder, 20 * centres, sizes, pairs[:0], faults=False).write()


def nothing(folder: Path) -> None:
    """A run that died before any tile was read."""
    run = Invented(folder, *invented_graph(2, 1))
    run.write()
    journal = folder / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]))


CASES: list[Callable[[Path], None]] = [good, faulty, dead, empty, nothing]


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("case", CASES)
def test_a_page_opens_in_silence(
    page: Page, tmp_path: Path, case: Callable[[Path], None], width: int
) -> None:
    """No error in the console, no request to anybody, and nothing wider than the screen."""
    case(tmp_path)
    page.open(report(tmp_path)[0], width, dark=width == 400)
    assert page.complaints == []
    assert page.requests == []
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run("return document.title").endswith("zemosaic run")
    assert page.run("return document.querySelectorAll('[onerror], iframe, object').length") == 0


def test_pointing_at_a_tile_tells_its_name_and_numbers(page: Page, tmp_path: Path) -> None:
    """The label is the text of the name, whatever it looks like, and what was found."""
    faulty(tmp_path)
    page.open(report(tmp_path)[0])
    last = page.run("return document.getElementById('gain').data.length") - 1
    said = page.hover("gain", last, 0)
    assert said.startswith(f"{EVIL[0]}\ngain ")
    assert "offset" in said
    assert "±" in said
    assert page.run("return document.querySelectorAll('#tip *').length") == 0


def test_pointing_at_a_pair_and_at_a_job(page: Page, tmp_path: Path) -> None:
    """In the sky the pair's tiles and what is left of it; in the lanes when it ran."""
    good(tmp_path)
    page.open(report(tmp_path)[0])
    trace = page.run("""return document.getElementById("sky").data.findIndex(
        t => t.customdata && t.customdata[0][0] === "p")""")
    said = page.hover("sky", trace, 2)
    assert "tile_00" in said
    assert "standard errors" in said
    assert "before" in said
    jobs = page.run("""return document.getElementById("lanes").data.findIndex(
        t => t.name === "measuring pairs")""")
    assert "measured" in page.hover("lanes", jobs, 0)


def test_dark_and_light_follow_the_reader(page: Page, tmp_path: Path) -> None:
    """Paper and ink change places, in the charts as well."""
    good(tmp_path)
    path = report(tmp_path)[0]
    seen = []
    for dark in (False, True):
        page.open(path, dark=dark)
        seen.append(
            page.run("""return [getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.querySelector("#gain .xtick text")).fill]""")
        )
    (light_paper, light_ink), (dark_paper, dark_ink) = seen
    assert light_paper == "rgb(255, 255, 255)"
    assert dark_paper != light_paper
    assert dark_ink != light_ink


def test_a_large_run_opens_and_answers(page: Page, tmp_path: Path) -> None:
    """Some 200 tiles with 6,553 pairs, the real graph where it is there: drawn, and hovered."""
    real = (SHARED / "graphs" / "zemosaic_m31_197_tiles.csv").exists()
    graph = graph_of(SHARED / "graphs") if real else invented_graph(200, 6553)
    run = Invented(tmp_path, *graph)
    run.write()
    path = report(tmp_path)[0]
    assert path.stat().st_size < 10_000_000
    page.open(path)
    assert page.complaints == []
    assert page.requests == []
    assert page.charts == ["sky", "lanes", "gain", "offset", "levels", "gains"]
    last = page.run("return document.getElementById('gain').data.length") - 1
    assert page.hover("gain", last, 100).startswith("tile_0100.fits\n")
