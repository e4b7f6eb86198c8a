"""A run's story -> one HTML page that needs nothing but itself.

Everything that comes from a file is escaped here (`_text`), or given to the page's script as
JSON and shown as text there. Should that ever fail, the page's own policy lets no script run but
those with its nonce, and nothing be fetched from anywhere.
"""

from __future__ import annotations

import base64
import html
import json
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..files import atomic_write
from ..runtime.run_folder import RunFolder
from .charts import chart_data
from .data import Story
from .text import (
    cards,
    chi_words,
    headline,
    jobs_table,
    outcome_class,
    settings_table,
    stacks_seen,
    tiles_table,
    troubles,
    unmeasurable_table,
)

PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class Images:
    """Pictures of the mosaic as PNG: before and, where there is a solution, after.

    `brightest` is the ADU of the seam maps' brightest colour.
    """

    mosaic: Sequence[bytes] = ()
    seams: Sequence[bytes] = ()
    brightest: float = 0.0


def write_report(story: Story, images: Images, trace: str = "") -> Path:
    """Write the page into the run folder, whole or not at all.

    Parameters
    ----------
    story : Story
        The run.
    images : Images
        The mosaic.
    trace : str
        Where a collector shows the trace; empty where it was sent to none.

    Returns
    -------
    pathlib.Path
        The page.
    """
    path = RunFolder(story.found.folder).report
    with atomic_write(path) as temporary:
        # Names may hold bytes that are no UTF-8.
        temporary.write_bytes(page(story, images, trace).encode(errors="backslashreplace"))
    return path


def page(story: Story, images: Images, trace: str = "") -> str:
    """The page as text."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    body = [
        f'<h1 class="{outcome_class(story)}">{_text(headline(story))}</h1>',
        '<div class="cards">',
        *(f'<div class="card"><b>{_text(b)}</b><span>{_text(s)}</span></div>'
          for b, s in cards(story)),
        "</div>",
        *_list(troubles(story)),
        *_pictures(images),
        *_sky(story),
        *_time(story),
        *_corrections(story),
        *_about(story, trace),
    ]  # fmt: skip
    # "<" would end the script element; it means the same to JSON this way.
    data = json.dumps(chart_data(story), separators=(",", ":")).replace("<", "\\u003c")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{_text(story.found.folder.resolve().name)}: zemosaic run</title>",
            f"<style>{(PAGE / 'page.css').read_text(encoding='utf-8')}</style>",
            "</head>\n<body>",
            *body,
            '<div id="tip" role="tooltip"></div>',
            f'<script type="application/json" id="data" nonce="{nonce}">{data}</script>',
            f'<script nonce="{nonce}">{plotly()}</script>',
            f'<script nonce="{nonce}">{(PAGE / "page.js").read_text(encoding="utf-8")}</script>',
            "</body>\n</html>\n",
        ]
    )


def plotly() -> str:
    """plotly.js, out of the package that brings it; that is not imported."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise OSError(2, "not found; pip install plotly", "plotly.min.js")
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _pictures(images: Images) -> Iterable[str]:
    if not images.mosaic:
        return
    yield "<h2>Before and after</h2>"
    if len(images.mosaic) == 1:
        yield "<p>The mosaic as its tiles are (asinh stretch); no solution corrects them.</p>"
    else:
        yield "<p>The mosaic as its tiles are, and as corrected: the same stretch (asinh).</p>"
    yield from _two(images.mosaic, "The mosaic")
    if not images.seams:
        return
    yield "<h3>Where tiles disagree</h3>"
    yield (
        "<p>The spread (standard deviation) among the tiles that cover a place. A good match "
        "leaves noise and stars; a frame of light around a tile is a seam.</p>"
    )
    yield from _two(images.seams, "The disagreement")
    quarter = images.brightest / 4  # the colours go with the root
    yield (
        f'<div class="scale">0 <i></i> {images.brightest:.3g} ADU or more '
        f"(the middle is {quarter:.3g})</div>"
    )


def _two(pngs: Sequence[bytes], what: str) -> Iterable[str]:
    yield '<div class="two">'
    for png, when in zip(pngs, ("before", "after"), strict=False):
        source = base64.b64encode(png).decode()
        yield (
            f'<figure><img alt="{what} {when}" src="data:image/png;base64,{source}">'
            f"<figcaption>{when.capitalize()}</figcaption></figure>"
        )
    yield "</div>"


def _sky(story: Story) -> Iterable[str]:
    yield "<h2>Tiles and pairs on the sky</h2>"
    if not any(tile.place for tile in story.tiles):
        yield "<p>No tile was prepared, so none can be placed.</p>"
        return
    yield (
        "<p>Each tile as its outline, each pair as a line: its colour is how far the two tiles "
        "still disagree, its width how much it weighs. Point at one to read it; drag to zoom, "
        "double-click to go back; click on the legend to hide.</p>"
    )
    yield _chart("sky")


def _time(story: Story) -> Iterable[str]:
    yield "<h2>Where the time went</h2>"
    if story.jobs:
        yield (
            "<p>A lane for each worker, a bar for each job; where there is none, the worker "
            "starts or waits. Point at one to read it; drag to zoom, double-click to go back.</p>"
        )
        yield _chart("lanes")
    yield from jobs_table(story, _table)
    yield from (
        f"<details><summary>{_text(head)}</summary><pre>{_text(stack)}</pre></details>"
        for head, stack in stacks_seen(story)
    )


def _corrections(story: Story) -> Iterable[str]:
    if not story.solved or not story.matched:
        return
    yield "<h2>What was found</h2>"
    plane = any(x for tile in story.tiles for x in (*tile.slope_x, *tile.slope_y))
    yield (
        f"<p>corrected = gain × data + offset{' + a plane of its own' if plane else ''}, with "
        "standard errors; where no bar is seen, the error is smaller than the dot.</p>"
    )
    yield f'<div class="two">{_chart("gain")}{_chart("offset")}</div>'
    yield from tiles_table(story, _table)
    words = chi_words(story)
    if words:
        yield "<h3>What is left, against what the errors predict</h3>"
        yield from (f"<p>{_text(line)}</p>" for line in words)
        some = any(math.isfinite(x) for p in story.pairs for x in p.gain_chi)
        yield f'<div class="two">{_chart("levels")}{_chart("gains") if some else ""}</div>'
    yield from unmeasurable_table(story, _table)


def _about(story: Story, trace: str) -> Iterable[str]:
    yield "<h2>The run</h2>"
    command = story.found.record.about.get("command", "")
    yield f'<p class="command"><code>{_text(command)}</code></p>'
    yield from settings_table(story, _table)
    link = f'<a href="{_text(trace)}" rel="noreferrer">its trace</a>, and ' if trace else ""
    files = ["journal.jsonl", *(["corrections.ecsv", "pairs.ecsv"] if story.solved else [])]
    links = ", ".join(f'<a href="{file}">{file}</a>' for file in files)
    yield (f'<p>See {link}<a href="trace.jsonl">trace.jsonl</a> (opens in Jaeger), {links}.</p>')


def _chart(name: str) -> str:
    return f'<figure><div class="chart" id="{name}"></div></figure>'


def _list(lines: Sequence[tuple[str, str]]) -> Iterable[str]:
    if lines:
        yield '<h3>What failed, and what to look at</h3><ul class="bad">'
        yield from (f'<li class="{kind}">{_text(line)}</li>' for kind, line in lines)
        yield "</ul>"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Mapping[int, str]) -> str:
    """A table; `numbers` says which columns are numbers, and in which format."""

    def cell(tag: str, column: int, value: Any) -> str:
        kind = ' class="n"' if column in numbers else ' class="name"'
        if tag == "td" and column in numbers and isinstance(value, (int, float)):
            value = format(value, numbers[column]) if math.isfinite(value) else "–"
        # On a narrow screen a row becomes a list, and each cell tells its own name.
        own = f' data-head="{_text(head[column])}"' if tag == "td" else ""
        return f"<{tag}{kind}{own}>{_text(value)}</{tag}>"

    lines = ["".join(cell("th", k, name) for k, name in enumerate(head))]
    lines += ["".join(cell("td", k, value) for k, value in enumerate(row)) for row in rows]
    inside = "\n".join(f"<tr>{line}</tr>" for line in lines)
    wide = ' class="wide"' if len(head) > 2 else ""
    return f'<div class="table"><table{wide}>{inside}</table></div>'


def _text(value: Any) -> str:
    return html.escape(str(value))
