"""The registry of the trace: well formed, complete, and its page up to date."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.helpers.semconv import ATTRIBUTES, GROUPS, SIGNALS, docs
from zemosaic.observe import (
    heartbeats,
    job_recorder,
    job_spans,
    live,
    run_metrics,
    run_recorder,
    telemetry,
)

#: The modules that name spans, events, metrics and attributes.
MODULES = (telemetry, run_recorder, job_recorder, job_spans, heartbeats, live, run_metrics)
TYPES = {"string": str, "int": int, "double": float, "any": float}


def literals(path: Path) -> set[str]:
    """Return every string constant of a module that is not part of an f-string."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
        for part in node.values
    }  # fmt: skip
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
    }


def test_every_name_in_the_code_is_declared() -> None:
    """The registry has all spans, events and attributes of the modules."""
    texts = {t for module in MODULES for t in literals(Path(module.__file__))}
    names = {t for t in texts if re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", t)}
    assert {"zemosaic.run.id", "error.type", run_recorder.HEARTBEAT} <= names
    declared = ATTRIBUTES.keys() | {name for _, name in SIGNALS}
    assert not names - declared
    stages = {f"{run_recorder.PHASE}.{stage}" for stage in run_recorder.STAGE_SPANS}
    assert not {name for name in (run_recorder.PHASE, *stages) if ("span", name) not in SIGNALS}


def test_every_attribute_is_described() -> None:
    """It has a type, a stability, a sentence as its brief, and examples of its type."""
    for name, attribute in ATTRIBUTES.items():
        kind = attribute["type"]
        assert attribute["stability"] in ("stable", "development"), name
        assert attribute["brief"].endswith("."), name
        if isinstance(kind, dict):
            assert all(member["brief"].endswith(".") for member in kind["members"]), name
            continue
        assert attribute["examples"], name
        for example in attribute["examples"]:
            if kind.startswith("template["):
                assert re.fullmatch(rf"{re.escape(name)}\.\w+=\S+", example), name
            elif kind.endswith("[]"):
                assert all(isinstance(item, TYPES[kind[:-2]]) for item in example), name
            else:
                assert isinstance(example, TYPES[kind]), name


def test_every_measurement_has_its_unit() -> None:
    """The note of a double ends with its unit."""
    for name, attribute in ATTRIBUTES.items():
        if name.startswith("zemosaic.") and "double" in str(attribute["type"]):
            assert re.search(r"Unit: (s|ADU)\.", attribute["note"]), name


def test_every_reference_exists() -> None:
    """Spans and events refer to declared attributes and events, each once."""
    events = {group["id"] for group in GROUPS if group["type"] == "event"}
    for signal, group in SIGNALS.items():
        references = [attribute["ref"] for attribute in group["attributes"]]
        assert len(set(references)) == len(references), signal
        assert set(references) <= ATTRIBUTES.keys(), signal
        assert set(group.get("events", ())) <= events, signal
    used = {a["ref"] for group in SIGNALS.values() for a in group["attributes"]}
    assert used == ATTRIBUTES.keys()


def test_the_page_is_up_to_date() -> None:
    """docs/trace.md is the output of otel/docs.py."""
    assert docs.PAGE.read_text(encoding="utf-8") == docs.page(), "run: python otel/docs.py"
