"""A solution as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from ..text import printable, two_digits, with_error
from .seams import seam_line, seam_steps
from .sky_map import STEP_CLASSES, sky_corners, step_class
from .solution import PhaseSolution

MAX_ROWS = 20  # of the table
MAX_PAIRS = 3000  # in a map
WIDTH = 320  # of a map in pixels


def solution_html(solution: PhaseSolution) -> str:
    """Return groups, problems, maps of the seams before and after, and corrections."""
    return f"<div>{''.join([*_summary(solution), *_maps(solution), *_table(solution)])}</div>"


def _text(text: str) -> str:
    return escape(printable(text))


def _summary(solution: PhaseSolution) -> Iterator[str]:
    yield (
        f"<p><b>{_text(solution.headline())}</b><br>model {_text(solution.model_line())}<br>"
        f"{_text(seam_line(solution))}</p>"
    )
    problems = [*solution.failed.values(), *([solution.sky_check.doubt] * bool(
        solution.sky_check.doubt))]  # fmt: skip
    problems += [
        f"suspect: {solution.names[index]}: {solution.why_suspect(index)}"
        for index in solution.suspects
    ]
    if problems:
        listed = problems[:MAX_ROWS]
        if len(problems) > MAX_ROWS:
            listed.append(f"and {len(problems) - MAX_ROWS} more")
        yield f"<ul>{''.join(f'<li>{_text(problem)}</li>' for problem in listed)}</ul>"


def _maps(solution: PhaseSolution) -> Iterator[str]:
    corners = sky_corners(solution)
    measured = sum(record.outcome == "measured" for record in solution.records)
    if not corners or not 0 < measured <= MAX_PAIRS:
        return
    yield '<div style="display:flex;flex-wrap:wrap;gap:1em">'
    for title, steps in zip(("before", "after"), seam_steps(solution), strict=True):
        yield f'<figure style="margin:0"><figcaption>Seams {title}</figcaption>'
        yield _map(solution, corners, steps, f"Map of the steps at the seams {title} correction")
        yield "</figure>"
    legend = " ".join(
        f'<span style="color:{colour}">&#9632;</span> {label}' for label, colour, _ in STEP_CLASSES
    )
    yield f"</div><p>Step between two tiles, in units of the cell noise: {legend}</p>"


def _map(
    solution: PhaseSolution, corners: dict[int, np.ndarray], steps: np.ndarray, title: str
) -> str:
    """Return an SVG of the tiles and of the pairs, coloured by their largest step."""
    points = np.concatenate(list(corners.values()))
    low, high = points.min(axis=0), points.max(axis=0)
    scale = WIDTH / max(high[0] - low[0], high[1] - low[1])
    size = (high - low) * scale

    def place(point: np.ndarray) -> str:
        x, y = (point - low) * scale
        return f"{x:.1f},{size[1] - y:.1f}"

    parts = [
        f'<polygon points="{" ".join(map(place, outline))}" fill="none" stroke="currentColor" '
        f'stroke-opacity="0.4"><title>{_text(solution.names[index])}</title></polygon>'
        for index, outline in corners.items()
    ]
    for record, step in zip(solution.records, steps, strict=True):
        if np.isfinite(step).any() and record.i in corners and record.j in corners:
            largest = float(np.nanmax(step))
            ends = (place(corners[index].mean(axis=0)) for index in (record.i, record.j))
            (x1, y1), (x2, y2) = (end.split(",") for end in ends)
            parts.append(
                f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke-width="3" '
                f'stroke="{step_class(largest)[1]}"><title>{two_digits(largest)}</title></line>'
            )
    box = f"-2 -2 {size[0] + 4:.0f} {size[1] + 4:.0f}"
    return (
        f'<svg role="img" aria-label="{title}" width="{size[0] + 4:.0f}" viewBox="{box}">'
        f"{''.join(parts)}</svg>"
    )


def _table(solution: PhaseSolution) -> Iterator[str]:
    tiles, channels = solution.gain.shape
    unit = f" ({_text(solution.unit)})" if solution.unit else ""
    head = ["tile", "file", *(["channel"] if channels > 1 else []), "gain", f"offset{unit}",
            "pairs", "group"]  # fmt: skip
    rows = []
    for index in range(min(tiles, max(1, MAX_ROWS // channels))):
        for channel in range(channels):
            place = index, channel
            cells = [str(index), _text(solution.names[index]), *([str(channel)] * (channels > 1))]
            cells += [
                with_error(solution.gain[place], solution.gain_err[place]),
                with_error(solution.offset[place], solution.offset_err[place]),
                str(solution.pairs[place]),
                str(solution.component[place]),
            ]
            rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    header = "".join(f'<th scope="col">{title}</th>' for title in head)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    yield f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"
    if len(rows) < tiles * channels:
        yield f"<p>{tiles * channels} rows in all: to_table()</p>"
