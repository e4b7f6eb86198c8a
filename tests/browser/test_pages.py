"""The report in a real browser: Debian's Chromium, headless and without a network.

Needs the extra ``browser`` and, on Debian, ``apt-get install chromium chromium-driver``. The tests
of accessibility need axe-core: ``npm install --prefix FOLDER axe-core``, and the path of its
``axe.min.js`` in AXE_CORE.
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

from tests.helpers.hostile import EVIL
from tests.helpers.synthetic_run import SyntheticRun, grid_graph, isolated_graph, load_graph
from zemosaic.report.build import write_report

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
TIMEOUT = 60.0  # seconds for a chart on a loaded machine


class Page:
    """A page in the browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, width: int = 1280, dark: bool = False) -> None:
        """Open a page and scroll through it until all charts are drawn."""
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
        deadline = time.monotonic() + TIMEOUT
        while not self.run(script):
            assert time.monotonic() < deadline, script
            time.sleep(0.02)

    @property
    def charts(self) -> list[str]:
        return self.run("return [...document.querySelectorAll('.chart')].map(c => c.id)")

    @property
    def console(self) -> list[str]:
        """Messages in the console of the browser."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    @property
    def requests(self) -> list[str]:
        """Addresses requested besides the page itself and the data in it."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages
                if m["method"] == "Network.requestWillBeSent"]  # fmt: skip
        return [url for url in urls if not url.startswith(("data:", "file:", "about:"))]

    def hover(self, chart: str, trace: int, point: int) -> str:
        """Move the pointer to a point of a chart, and return the text of the tooltip."""
        self.run(f"document.getElementById('{chart}').scrollIntoView({{block: 'center'}})")
        x, y = self.run(f"""
            const element = document.getElementById("{chart}"), layout = element._fullLayout;
            const trace = element.data[{trace}], box = element.getBoundingClientRect();
            const x = trace.x[{point}];
            const middle = trace.base ? trace.base[{point}] + x / 2 : x;
            return [box.left + layout.xaxis._offset + layout.xaxis.d2p(middle),
                    box.top + layout.yaxis._offset + layout.yaxis.d2p(trace.y[{point}])];""")
        deadline = time.monotonic() + TIMEOUT
        while not self.run("return document.getElementById('tip').style.display === 'block'"):
            assert time.monotonic() < deadline, f"{chart}: no tooltip at {x}, {y}"
            for shift in (30, 0):  # only a pointer that moves hovers
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
    SyntheticRun(folder, grid_graph(12, 30), channels=3, faults=False).write()


def faulty(folder: Path) -> None:
    names = [*EVIL, *(f"{'a_very_long_name_' * 6}{k}.fits" for k in range(8))]
    SyntheticRun(folder, grid_graph(12, 30), names=names).write()


def dead(folder: Path) -> None:
    SyntheticRun(folder, grid_graph(12, 30)).write(until=17)


def without_pairs(folder: Path) -> None:
    SyntheticRun(folder, isolated_graph(4), faults=False).write()


def without_tiles(folder: Path) -> None:
    """Write a run that died before it read any tile."""
    SyntheticRun(folder, grid_graph(2, 1)).write()
    journal = folder / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]))


CASES: list[Callable[[Path], None]] = [good, faulty, dead, without_pairs, without_tiles]


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("case", CASES)
def test_a_page_opens_without_errors_or_requests(
    page: Page, tmp_path: Path, case: Callable[[Path], None], width: int
) -> None:
    """The console is empty, no request is sent, and nothing is wider than the screen."""
    case(tmp_path)
    page.open(write_report(tmp_path)[0], width, dark=width == 400)
    assert page.console == []
    assert page.requests == []
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run("return document.title").endswith("zemosaic run")
    assert page.run("return document.querySelectorAll('[onerror], iframe, object').length") == 0


@pytest.fixture
def axe() -> str:
    """The script of axe-core, which finds what keeps people with disabilities out."""
    path = Path(os.environ.get("AXE_CORE", PROJECT / "node_modules/axe-core/axe.min.js"))
    if not path.is_file():
        pytest.skip("no axe-core: npm install --prefix FOLDER axe-core, and set AXE_CORE")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("case", [good, faulty, dead])
def test_a_page_can_be_read_by_everybody(
    page: Page, tmp_path: Path, axe: str, case: Callable[[Path], None], width: int
) -> None:
    """axe-core finds no fault of contrast, names, order or keyboard, with all tables open."""
    case(tmp_path)
    page.open(write_report(tmp_path)[0], width, dark=width == 400)
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    page.run(axe)
    found = page.driver.execute_async_script(
        "const done = arguments[0]; axe.run(document).then(result => done(result.violations.map("
        "v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 200)).join('; '))))"
    )
    assert found == []


def test_the_tooltip_of_a_tile_has_its_name_and_corrections(page: Page, tmp_path: Path) -> None:
    """The tooltip shows the name as text, whatever it contains, and gain and offset."""
    faulty(tmp_path)
    page.open(write_report(tmp_path)[0])
    last = page.run("return document.getElementById('gain').data.length") - 1
    text = page.hover("gain", last, 0)
    assert text.startswith(f"{EVIL[0]}\ngain ")
    assert "offset" in text
    assert "±" in text
    assert page.run("return document.querySelectorAll('#tip *').length") == 0


def test_the_tooltips_of_a_pair_and_of_a_job(page: Page, tmp_path: Path) -> None:
    """On the map a pair shows its tiles and residual, in the lanes its outcome."""
    good(tmp_path)
    page.open(write_report(tmp_path)[0])
    trace = page.run("""return document.getElementById("sky").data.findIndex(
        t => t.customdata && t.customdata[0][0] === "p")""")
    text = page.hover("sky", trace, 2)
    assert "tile_00" in text
    assert "standard errors" in text
    assert "before" in text
    jobs = page.run("""return document.getElementById("lanes").data.findIndex(
        t => t.name === "measuring pairs")""")
    assert "measured" in page.hover("lanes", jobs, 0)


def test_the_page_follows_the_colour_scheme_of_the_reader(page: Page, tmp_path: Path) -> None:
    """In the dark scheme background and text change, in the charts as well."""
    good(tmp_path)
    path = write_report(tmp_path)[0]
    colours = []
    for dark in (False, True):
        page.open(path, dark=dark)
        colours.append(
            page.run("""return [getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.querySelector("#gain .xtick text")).fill]""")
        )
    (light_paper, light_ink), (dark_paper, dark_ink) = colours
    assert light_paper == "rgb(255, 255, 255)"
    assert dark_paper != light_paper
    assert dark_ink != light_ink


def test_the_page_of_a_large_run_opens_and_has_tooltips(page: Page, tmp_path: Path) -> None:
    """Some 200 tiles with 6,553 pairs are drawn: those of a real mosaic if its graph is there."""
    folder = SHARED / "graphs"
    real = (folder / "zemosaic_m31_197_tiles.csv").exists()
    graph = load_graph(folder) if real else grid_graph(200, 6553)
    SyntheticRun(tmp_path, graph).write()
    path = write_report(tmp_path)[0]
    assert path.stat().st_size < 10_000_000
    page.open(path)
    assert page.console == []
    assert page.requests == []
    assert page.charts == ["sky", "gain", "offset", "levels", "gains", "lanes"]
    last = page.run("return document.getElementById('gain').data.length") - 1
    assert page.hover("gain", last, 100).startswith("tile_0100.fits\n")
