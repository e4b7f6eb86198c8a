"""Writes docs/trace.md from the registry in otel/semconv; with --check, says if it is stale.

python otel/docs.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
REGISTRY = ROOT / "otel" / "semconv"
PAGE = ROOT / "docs" / "trace.md"
Group = dict[str, Any]

HEAD = """\
<!-- Made by otel/docs.py from otel/semconv; change those. -->

# What is in a trace

Every span, event and attribute of a run. The same in a form for machines is
[`otel/semconv`](../otel/semconv), an [OpenTelemetry Weaver](https://github.com/open-telemetry/weaver)
registry. Attributes without a value that says something (None, NaN, an empty list) are left out.
"""


def main() -> int:
    """Write the page, or compare."""
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is stale; run: python otel/docs.py", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    return 0


def groups() -> list[Group]:
    """All groups of the registry, in the order of its files."""
    files = sorted(set(REGISTRY.glob("*.yaml")) - {REGISTRY / "manifest.yaml"})
    return [g for f in files for g in yaml.safe_load(f.read_text(encoding="utf-8"))["groups"]]


def page() -> str:
    """The page."""
    found = groups()
    known = {a["id"]: a for g in found for a in g.get("attributes", ()) if "id" in a}
    kinds = {"entity": "Resource", "span": "Spans", "event": "Events", "attribute_group": ""}
    lines = [HEAD]
    for kind, title in kinds.items():
        if title:
            lines.append(f"## {title}\n")
        else:
            lines.append("## Attributes\n")
        for group in (g for g in found if g["type"] == kind):
            lines += _declared(group) if kind == "attribute_group" else _signal(group, known)
    return "\n".join(lines)


def _signal(group: Group, known: dict[str, Any]) -> Iterator[str]:
    """A resource, span or event, with the attributes that it has."""
    yield f"### `{name(group)}`\n"
    yield from _said(group)
    if events := group.get("events"):
        yield "Events: " + ", ".join(f"`{e.removeprefix('event.')}`" for e in events) + "\n"
    yield "| attribute | when |\n|---|---|"
    for attribute in group["attributes"]:
        level = attribute.get("requirement_level", "Where there is one.")
        if isinstance(level, dict):
            level = level["conditionally_required"]
        level = {"required": "Always."}.get(level, level)
        yield f"| {_link(attribute['ref'], known)} | {level} |"
    yield ""


def _declared(group: Group) -> Iterator[str]:
    """A family of attributes: names, types, meanings."""
    yield f"### {group['display_name']}\n"
    yield from _said(group)
    yield "| attribute | type | what it says | for example |\n|---|---|---|---|"
    for attribute in group["attributes"]:
        yield "| " + " | ".join(_row(attribute)) + " |"
    yield ""


def _row(attribute: Group) -> Iterator[str]:
    kind = attribute["type"]
    says = " ".join([attribute["brief"], *_notes(attribute)])
    yield f'<a id="{attribute["id"]}"></a>`{_shown(attribute)}`'
    if isinstance(kind, dict):
        members = kind["members"]
        yield "string"
        yield "; ".join([says, *(f"`{m['value']}`: {m['brief']}" for m in members)])
        yield ""
    else:
        yield kind.removeprefix("template[").removesuffix("]") if "template" in kind else kind
        yield says
        yield ", ".join(f"`{str(example).strip()}`" for example in attribute["examples"])


def _said(group: Group) -> Iterator[str]:
    yield " ".join([group["brief"], *_notes(group)]) + f" Stability: {_stability(group)}.\n"


def _notes(entry: Group) -> list[str]:
    return [" ".join(entry["note"].split())] if "note" in entry else []


def _stability(group: Group) -> str:
    """That of the group, or what all its attributes have."""
    levels = {group["stability"]} if "stability" in group else set()
    levels |= {a["stability"] for a in group["attributes"] if "stability" in a}
    return " or ".join(sorted(levels))


def _link(reference: str, known: dict[str, Any]) -> str:
    return f"[`{_shown(known[reference])}`](#{reference})"


def _shown(attribute: Group) -> str:
    return attribute["id"] + (".<name>" if str(attribute["type"]).startswith("template") else "")


def name(group: Group) -> str:
    """What the span, event or resource is called in a trace."""
    return group.get("name") or group["id"].removeprefix("span.")


if __name__ == "__main__":
    sys.exit(main())
