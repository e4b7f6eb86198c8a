"""Render the report of a run as one self-contained HTML page.

All text from files is escaped (`markup.escape`), or passed to the page's script as JSON and shown
as text there. As a second line of defence, the page's content security policy allows only the
scripts with its nonce, and no requests.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files import atomic_write
from ..runtime.run_folder import RunFolder
from .charts import chart_data
from .data import RunData
from .light import LightImage, light_sentences
from .markup import escape, folded
from .problems import find_problems
from .selection import selection_sentence
from .survey import SurveyPicture, aladin_link
from .tables import (
    corrections_table,
    pairs_table,
    settings_table,
    stack_dumps,
    star_table,
    time_tables,
    unmeasured_tables,
)
from .text import chi_square_sentences, headline, key_figures, verdict_class

ASSETS = Path(__file__).parent / "page"


@dataclass(frozen=True)
class PageImages:
    """Images of the mosaic as WebP files: before and, with a solution, after correction.

    `seam_limit` is the spread, in the unit of the levels, of the brightest colour in the seam maps.
    `lights` are pictures of illumination and glow of each instrument; `survey` lies behind the map.
    """

    mosaic: Sequence[bytes] = ()
    seams: Sequence[bytes] = ()
    seam_limit: float = 0.0
    lights: Sequence[LightImage] = ()
    survey: SurveyPicture | None = None


def write_page(run: RunData, images: PageImages, trace_link: str = "") -> Path:
    """Write the page to the run folder, complete or not at all, and return its path.

    Parameters
    ----------
    run : RunData
        The run.
    images : PageImages
        Images of the mosaic.
    trace_link : str
        Address of the trace at its collector; empty without a collector.
    """
    path = RunFolder(run.autopsy.folder).report
    with atomic_write(path) as temporary:
        # File names may hold bytes that are not UTF-8.
        page = render_page(run, images, trace_link)
        temporary.write_bytes(page.encode(errors="backslashreplace"))
    return path


def render_page(run: RunData, images: PageImages, trace_link: str = "") -> str:
    """Return the page as text."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    # "<" could end the script element; JSON reads the escape as the same character.
    charts = chart_data(run) | {"survey": _background(images.survey)}
    data = json.dumps(charts, separators=(",", ":")).replace("<", "\\u003c")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(run.autopsy.folder.resolve().name)}: zemosaic run</title>",
            f"<style>{(ASSETS / 'page.css').read_text(encoding='utf-8')}</style>",
            "</head>\n<body>\n<main>",
            *_summary(run),
            *_images(images, run),
            *_lights(run, images.lights),
            *_map(run, images.survey),
            *_corrections(run),
            *_times(run),
            *_settings(run, trace_link),
            "</main>",
            '<div id="tip" role="tooltip"></div>',
            f'<script type="application/json" id="data" nonce="{nonce}">{data}</script>',
            f'<script type="text/plain" id="plotly" nonce="{nonce}">{read_plotly()}</script>',
            f'<script nonce="{nonce}">{(ASSETS / "page.js").read_text(encoding="utf-8")}</script>',
            "</body>\n</html>\n",
        ]
    )


def read_plotly() -> str:
    """Return plotly.js with bar and scatter charts alone, a quarter of the whole.

    It is compressed by gzip, which the page's script undoes, and in base64.
    """
    return base64.b64encode((ASSETS / "plotly-basic.min.js.gz").read_bytes()).decode()


def _summary(run: RunData) -> Iterator[str]:
    yield f'<h1 class="{verdict_class(run)}">{escape(headline(run))}</h1>'
    yield '<div class="cards">'
    for figure in key_figures(run):
        value, label = escape(figure.value), escape(figure.label)
        yield f'<div class="card"><b>{value}</b><span>{label}</span></div>'
    yield "</div>"
    problems = find_problems(run)
    if problems:
        yield '<h2>Problems</h2><ul class="problems">'
        for problem in problems:
            kind = ' class="warning"' if problem.warning else ""
            yield f"<li{kind}>{escape(problem.text)}</li>"
        yield "</ul>"


def _images(images: PageImages, run: RunData) -> Iterator[str]:
    if not images.mosaic:
        return
    yield "<h2>Before and after</h2>"
    if len(images.mosaic) == 1:
        yield "<p>The uncorrected mosaic (asinh stretch); there is no solution to correct it.</p>"
    else:
        yield "<p>The mosaic before and after correction, with the same asinh stretch.</p>"
    yield from _image_pair(images.mosaic, f"The mosaic of {len(run.tiles)} tiles")
    if not images.seams:
        return
    yield "<h3>Where tiles disagree</h3>"
    yield (
        "<p>The standard deviation of the tiles that cover each position. After a good match "
        "only noise and stars remain; a bright frame around a tile is a seam.</p>"
    )
    yield from _image_pair(images.seams, "A map of the disagreement of the tiles")
    middle = images.seam_limit / 4  # the colour is linear in the square root
    yield (
        f'<div class="scale">0 <i></i> {images.seam_limit:.3g} {escape(run.unit)} or more '
        f"(middle: {middle:.3g})</div>"
    )


def _image_pair(pictures: Sequence[bytes], title: str) -> Iterator[str]:
    yield '<div class="two">'
    for picture, state in zip(pictures, ("before", "after"), strict=False):
        yield f"<figure>{_image(picture, f'{title} {state} correction')}"
        yield f"<figcaption>{state.capitalize()}</figcaption></figure>"
    yield "</div>"


def _image(picture: bytes, text: str) -> str:
    source = base64.b64encode(picture).decode()
    return f'<img alt="{escape(text)}" src="data:image/webp;base64,{source}">'


def _lights(run: RunData, images: Sequence[LightImage]) -> Iterator[str]:
    if not images:
        return
    yield "<h2>What the tiles share</h2>"
    yield from (f"<p>{escape(sentence)}</p>" for sentence in light_sentences(run))
    yield (
        "<p>The response of the instrument to light from the sky, 1 in the mean, and light that "
        "does not come from there. The corrected tiles are free of both.</p>"
    )
    yield '<div class="lights">'
    for image in images:
        yield (
            f"<figure>{_image(image.picture, image.caption)}"
            f'<div class="scale">{image.low:.4g} <i></i> {image.high:.4g}</div>'
            f"<figcaption>{escape(image.caption)}</figcaption></figure>"
        )
    yield "</div>"


def _background(survey: SurveyPicture | None) -> dict[str, object] | None:
    """Return the survey picture for the script of the page, with its place on the map."""
    if survey is None:
        return None
    source = f"data:image/jpeg;base64,{base64.b64encode(survey.jpeg).decode()}"
    return {"source": source, **asdict(survey.field)}


def _map(run: RunData, survey: SurveyPicture | None) -> Iterator[str]:
    yield "<h2>Tiles and pairs on the sky</h2>"
    if not run.tiles.is_placed.any():
        yield "<p>No tile was prepared, so there is no map.</p>"
        return
    yield (
        "<p>Each outline is a tile, each line a pair: its colour shows how much the two tiles "
        "still disagree, its width the weight of the pair. Hover over a tile or pair for "
        "details; drag to zoom, double-click to reset; click a legend entry to hide it.</p>"
    )
    if sentence := selection_sentence(run):
        yield f"<p>{escape(sentence)}</p>"
    yield _chart(
        "sky", "Map of the tiles and pairs; the tables of gains and of pairs have its data"
    )
    if survey is not None:
        yield f"<p>Behind the tiles: {escape(survey.survey)}, from hips2fits of CDS.</p>"
    if link := aladin_link(run):
        yield f'<p><a href="{escape(link)}" rel="noreferrer">This field in Aladin Lite</a></p>'
    yield from pairs_table(run)


def _times(run: RunData) -> Iterator[str]:
    yield "<h2>Where the time went</h2>"
    if len(run.jobs):
        yield (
            "<p>One lane per worker, one bar per job; in the gaps a worker starts or waits. Hover "
            "over a bar for details; drag to zoom, double-click to reset.</p>"
        )
        yield _chart("lanes", "Bars of the jobs of each worker over time")
    yield from time_tables(run)
    yield from stack_dumps(run)


def _corrections(run: RunData) -> Iterator[str]:
    if not run.solved or not run.matched:
        return
    yield "<h2>Corrections</h2>"
    line = "gain × data + offset"
    if run.illuminations:
        line = "(gain × (data − glow) + offset − bias) / illumination + bias"
    yield (
        f"<p>corrected = {line}{' + a surface per tile' if run.tiles.has_surfaces else ''}, with "
        "standard errors; without a visible bar the error is smaller than the marker.</p>"
    )
    gains, offsets = (
        _chart(name, f"The {name} of each tile, as in the table below")
        for name in ("gain", "offset")
    )
    yield f'<div class="two">{gains}{offsets}</div>'
    yield corrections_table(run)
    yield from star_table(run)
    sentences = chi_square_sentences(run)
    if sentences:
        yield "<h3>Residuals compared with their errors</h3>"
        yield from (f"<p>{escape(sentence)}</p>" for sentence in sentences)
        title = "Histogram of the residual {} in standard errors"
        gains = ""
        if run.finite_residuals("gain_chi"):
            gains = _chart("gains", title.format("gains"))
        yield f'<div class="two">{_chart("levels", title.format("levels"))}{gains}</div>'
    yield from unmeasured_tables(run)


def _settings(run: RunData, trace_link: str) -> Iterator[str]:
    yield "<h2>The run</h2>"
    command = run.autopsy.record.about.get("command", "")
    yield f'<p class="command"><code>{escape(command)}</code></p>'
    yield folded("All settings", settings_table(run))
    trace = f'<a href="{escape(trace_link)}" rel="noreferrer">the trace</a>, ' if trace_link else ""
    files = ["journal.jsonl", *(["corrections.ecsv", "pairs.ecsv"] if run.solved else [])]
    files += ["illumination.fits"] if run.illuminations else []
    links = ", ".join(f'<a href="{file}">{file}</a>' for file in files)
    yield f'<p>See {trace}<a href="trace.jsonl">trace.jsonl</a> (opens in Jaeger), {links}.</p>'


def _chart(name: str, description: str) -> str:
    """Return the place of a chart, which a screen reader takes for one image."""
    label = f'role="img" aria-label="{escape(description)}"'
    return f'<figure><div class="chart" id="{name}" {label}></div></figure>'
