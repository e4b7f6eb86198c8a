"""HTML of the report: escaped text and tables."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def escape(value: Any) -> str:
    """Return a value as text that is safe in an element and in an attribute."""
    return html.escape(str(value))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], formats: Mapping[int, str]) -> str:
    """Return a table; `formats` has the format of each column of numbers, by its position."""
    lines = ["".join(_cell("th", title, title, formats.get(k)) for k, title in enumerate(head))]
    for row in rows:
        cells = zip(head, row, strict=True)
        lines.append(
            "".join(_cell("td", t, value, formats.get(k)) for k, (t, value) in enumerate(cells))
        )
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    wide = ' class="wide"' if len(head) > 2 else ""
    return f'<div class="table"><table{wide}>{body}</table></div>'


def _cell(tag: str, title: str, value: Any, number_format: str | None) -> str:
    kind = "name" if number_format is None else "n"
    # On a narrow screen a row becomes a list, in which each cell shows the title of its column.
    label = f' data-head="{escape(title)}"' if tag == "td" else ""
    if tag == "td" and number_format is not None and isinstance(value, int | float):
        value = format(value, number_format) if math.isfinite(value) else "–"
    return f'<{tag} class="{kind}"{label}>{escape(value)}</{tag}>'


def folded(summary: str, body: str) -> str:
    """Return a body of HTML that is folded away under its summary."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"
