"""The picture of a survey behind the map of a run, and the link to a viewer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from astropy.wcs import WCS

from tests.helpers.cli import Run
from tests.helpers.synthetic_run import SyntheticRun, grid_graph
from zemosaic.report import survey
from zemosaic.report.build import load_run

JPEG = b"\xff\xd8\xff\xe0picture"


class Service(BaseHTTPRequestHandler):
    """Answers as hips2fits does."""

    asked: ClassVar[list[dict[str, list[str]]]] = []

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.asked.append(query)
        known = query["hips"] == ["CDS/P/DSS2/color"]
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(JPEG if known else b"no such HiPS")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, list[str]]]]:
    """Serve pictures on this machine; yield the queries."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(survey, "HIPS2FITS", f"http://127.0.0.1:{server.server_port}/")
    Service.asked.clear()
    yield Service.asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run."""
    SyntheticRun(tmp_path, grid_graph(6, 9), faults=False).write()
    return tmp_path


def test_no_picture_is_fetched_unless_asked_for(
    zemosaic: Callable[..., Run], service: list[dict[str, list[str]]], folder: Path
) -> None:
    """A report asks nobody, and links to the field of its tiles in Aladin Lite."""
    assert zemosaic("report", folder).code == 0
    assert service == []
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert '"survey":null' in page
    assert "https://aladin.cds.unistra.fr/AladinLite/?target=10.50000%20%2B41.25000" in page


def test_the_picture_lies_where_the_tiles_are(
    zemosaic: Callable[..., Run], service: list[dict[str, list[str]]], folder: Path
) -> None:
    """The WCS of the picture puts the corners of the tiles where the map draws them."""
    assert zemosaic("report", folder, "--survey").code == 0
    (query,) = service
    header = json.loads(query["wcs"][0])
    picture, run = WCS(header), load_run(folder)[0]
    field = survey.Field.of(run)
    assert field is not None
    plane = WCS(naxis=2)
    plane.wcs.ctype, plane.wcs.crval = ["RA---TAN", "DEC--TAN"], run.origin
    plane.wcs.cdelt, plane.wcs.crpix = [-1, 1], [1, 1]
    corners = np.array([corner for tile in run.tiles for corner in tile.corners()])
    pixels = picture.wcs_world2pix(plane.wcs_pix2world(corners, 0), 0) + 0.5
    size = np.array([header["NAXIS1"], header["NAXIS2"]])
    edges = np.array([field.left, field.bottom]), np.array([field.right, field.top])
    expected = (corners - edges[0]) / (edges[1] - edges[0]) * size
    assert np.allclose(pixels, expected, atol=1)
    assert pixels.min() > 0
    assert np.all(pixels < size)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in page
    assert "Behind the tiles: CDS/P/DSS2/color" in page


def test_a_survey_without_picture_is_named(
    zemosaic: Callable[..., Run], service: list[dict[str, list[str]]], folder: Path
) -> None:
    """An unknown survey is one line with its name, and leaves the page as it was."""
    result = zemosaic("report", folder, "--survey", "P/none")
    assert result.code == 2
    assert len(service) == 1
    assert result.err.startswith("zemosaic: P/none: no picture from http://127.0.0.1")
    assert "404" in result.err
    assert not (folder / "report.html").exists()
