"""HTML of the report: escaped text and tables."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def escape(value: Any) -> str:
    """Return a value as text, safe in elements and attributes."""
    return html.escape(str(value))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], formats: Mapping[int, str]) -> str:
    """Return a table; `formats` has the format of each column of numbers, by its position."""
    columns = [(title, formats.get(position)) for position, title in enumerate(head)]
    titles = "".join(_head_cell(*column) for column in columns)
    lines = []
    for row in rows:
        cells = zip(columns, row, strict=True)
        lines.append("".join(_cell(*column, value) for column, value in cells))
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    wide = ' class="wide"' if len(head) > 2 else ""
    # The focus lets the keys scroll a table wider than the screen.
    return (
        f'<div class="table" tabindex="0" role="group" aria-label="{escape(", ".join(head))}">'
        f"<table{wide}><thead><tr>{titles}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _head_cell(title: str, number_format: str | None) -> str:
    return f'<th scope="col" class="{_column_class(number_format)}">{escape(title)}</th>'


def _cell(title: str, number_format: str | None, value: Any) -> str:
    if number_format is not None and isinstance(value, int | float):
        value = format(value, number_format) if math.isfinite(value) else "–"
    # On a narrow screen a row becomes a list, in which each cell shows the title of its column.
    attributes = f'class="{_column_class(number_format)}" data-head="{escape(title)}"'
    return f"<td {attributes}>{escape(value)}</td>"


def _column_class(number_format: str | None) -> str:
    return "name" if number_format is None else "n"


def folded(summary: str, body: str) -> str:
    """Return a body of HTML, folded away under its summary."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"
