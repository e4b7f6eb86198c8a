"""The registry in otel/semconv, and a check of spans against it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

DOCS = Path(__file__).resolve().parents[2] / "otel" / "docs.py"
_spec = importlib.util.spec_from_file_location("otel_docs", DOCS)
assert _spec is not None
assert _spec.loader is not None
docs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(docs)

GROUPS: list[dict[str, Any]] = docs.groups()
#: Every attribute, by its id.
ATTRIBUTES: dict[str, dict[str, Any]] = {
    attribute["id"]: attribute
    for group in GROUPS
    for attribute in group.get("attributes", ())
    if "id" in attribute
}
#: Every span, every event and the resource, by kind and name.
SIGNALS: dict[tuple[str, str], dict[str, Any]] = {
    (group["type"], docs.name(group)): group
    for group in GROUPS
    if group["type"] != "attribute_group"
}
RESOURCE = ("entity", "zemosaic")
TYPES = {"string_value": "string", "int_value": "int", "double_value": "double"}


@dataclass(frozen=True)
class SentAttribute:
    """An attribute as it was sent, on a span, an event or the resource."""

    signal: tuple[str, str]
    key: str
    value: Any

    @property
    def declared(self) -> str | None:
        """The id of the name in the registry: its own, or that of a template."""
        for key in (self.key, self.key.rpartition(".")[0]):
            if key in ATTRIBUTES and _is_template(key) == (key != self.key):
                return key
        return None

    def fault(self) -> str:
        """Return the deviation from the registry; empty if there is none."""
        where = f"{self.key} on {self.signal[1]}"
        group = SIGNALS.get(self.signal)
        if group is None:
            return f"{self.signal} is not declared"
        if self.declared not in {attribute["ref"] for attribute in group["attributes"]}:
            return f"{where} is not declared"
        expected = ATTRIBUTES[self.declared]["type"]
        kind = _kind(self.value)
        if isinstance(expected, dict):
            values = {member["value"] for member in expected["members"]}
            if kind != "string" or self.value.string_value not in values:
                return f"{where} is {self.value}, which is not in {values}"
            return ""
        allowed = {"any": {"double", "double[]"}}.get(
            expected, {expected.removeprefix("template[").removesuffix("]")}
            if _is_template(self.declared) else {expected},
        )  # fmt: skip
        return "" if kind in allowed else f"{where} is {kind}, declared {expected}"


def seen(
    resource_spans: Iterable[ResourceSpans],
) -> Iterator[tuple[tuple[str, str], list[SentAttribute]]]:
    """Yield the kind, the name and the attributes of every resource, span and event."""
    for resource in resource_spans:
        yield RESOURCE, _seen(RESOURCE, resource.resource.attributes)
        for span in (s for scope in resource.scope_spans for s in scope.spans):
            yield ("span", span.name), _seen(("span", span.name), span.attributes)
            for event in span.events:
                yield ("event", event.name), _seen(("event", event.name), event.attributes)


def faults(resource_spans: Iterable[ResourceSpans]) -> set[str]:
    """Return all deviations of spans from the registry."""
    deviations = set()
    for signal, attributes in seen(resource_spans):
        if signal not in SIGNALS:
            deviations.add(f"{signal} is not declared")
            continue
        deviations |= {fault for attribute in attributes if (fault := attribute.fault())}
        required = {
            attribute["ref"]
            for attribute in SIGNALS[signal]["attributes"]
            if attribute.get("requirement_level") == "required"
        }
        missing = required - {attribute.declared for attribute in attributes}
        deviations |= {f"{signal} lacks {key}" for key in missing}
    return deviations


def _seen(signal: tuple[str, str], attributes: Iterable[Any]) -> list[SentAttribute]:
    return [SentAttribute(signal, attribute.key, attribute.value) for attribute in attributes]


def _kind(value: Any) -> str:
    field = value.WhichOneof("value")
    if field == "array_value":
        kinds = {_kind(item) for item in value.array_value.values}
        return f"{kinds.pop()}[]" if len(kinds) == 1 else "mixed[]"
    return TYPES.get(field, str(field))


def _is_template(key: str) -> bool:
    return str(ATTRIBUTES[key]["type"]).startswith("template[")
