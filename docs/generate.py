"""Writes docs/reference/ from the code: `python -m docs.generate`; with `--check` only says where it differs."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from prometheus_client import REGISTRY

from lull.api.reasons import ConditionType, Reason, ScalingReason
from lull.api.schema import build_crd
from lull.core.status import REMEDIES
from lull.doors import metrics  # noqa: F401  registers the operator's series
from lull.doors.gateway_metrics import GatewayMetrics
from lull.doors.merging import Processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from enum import StrEnum

    from prometheus_client import CollectorRegistry

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "docs" / "reference"
_PROCESS: Final = ("process_", "python_")
"""Series of every Python process, which its own documentation describes."""


def render_fields() -> str:
    """Every field of an LLMDeployment."""
    schema = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return "\n".join(
        [
            "# Fields of an LLMDeployment",
            "",
            "`kubectl explain llm.spec --recursive` says the same. *Immediate*: no pod restarts for it.",
            "",
            "## spec",
            "",
            "| field | type | default | |",
            "|---|---|---|---|",
            *_field_rows(schema["spec"], "spec"),
            "",
            "### Rules between fields",
            "",
            "What breaks one is refused by the API server, in these words.",
            "",
            *(f"- `{path}`: {message}" for path, message in _rules(schema["spec"], "spec")),
            "",
            "## status",
            "",
            "Written by Lull.",
            "",
            "| field | type | |",
            "|---|---|---|",
            *(_row(path, kind, text) for path, kind, _, text in _fields(schema["status"], "status")),
            "",
        ]
    )


def _field_rows(schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, kind, default, text in _fields(schema, path):
        yield _row(name, kind, default, text)


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in schema["properties"].items():
        here = f"{path}.{name}"
        required = name in schema.get("required", ())
        default = "required" if required else _code(field["default"]) if _has_default(field) else ""
        yield f"`{here}`", _type(field), default, field.get("description", "")
        inner, suffix = (field["items"], "[]") if "items" in field else (field, "")
        if "properties" in inner:
            yield from _fields(inner, here + suffix)


def _has_default(field: dict[str, Any]) -> bool:
    return "default" in field and field["default"] not in ({}, [], "") and field.get("type") != "object"


def _type(field: dict[str, Any]) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "number or percentage"
    if "enum" in field:
        return " \\| ".join(_code(value) for value in field["enum"])
    if "items" in field:
        return f"list of {_plain(field['items'])}s"
    if "additionalProperties" in field:
        return f"map to {_plain(field['additionalProperties'])}s"
    limits = f" {field['minimum']} to {field['maximum']}" if {"minimum", "maximum"} <= field.keys() else ""
    return _plain(field) + limits


def _plain(field: dict[str, Any]) -> str:
    kind: str = field.get("type", "value")
    return kind


def _rules(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path, rule["message"]
    for name, field in schema.get("properties", {}).items():
        yield from _rules(field, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")


def render_conditions() -> str:
    """Conditions, their reasons, and what to do about each."""
    return "\n".join(
        [
            "# Conditions and reasons",
            "",
            "`kubectl get llm NAME -o yaml` and `lull status NAME` show them; the same words are the reasons of Events.",
            "",
            "## Conditions",
            "",
            "| condition | |",
            "|---|---|",
            *(_row(f"`{member.value}`", text) for member, text in _described(ConditionType)),
            "",
            "## Reasons of conditions",
            "",
            "| reason | means | what to do |",
            "|---|---|---|",
            *(_row(f"`{member.value}`", text, REMEDIES.get(Reason(member), "")) for member, text in _described(Reason)),
            "",
            "## Reasons of scaling decisions",
            "",
            "In `status.decisions`, in the operator's log and as the label `reason` of `lull_decisions_total`.",
            "",
            "| reason | means |",
            "|---|---|",
            *(_row(f"`{member.value}`", text) for member, text in _described(ScalingReason)),
            "",
        ]
    )


def _described(enum: type[StrEnum]) -> Iterator[tuple[StrEnum, str]]:
    """Members with the string that stands below each in the source; ValueError for one without."""
    body = ast.parse(inspect.getsource(enum)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    name = ""
    for statement in body.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]):
                pass
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                texts[name] = " ".join(text.split())
    for member in enum:
        if member.name not in texts:
            raise ValueError(f"{enum.__name__}.{member.name} has no description below it")
        yield member, texts[member.name]


def render_metrics() -> str:
    """Every series of the operator and of the gateway."""
    gateway = GatewayMetrics(dict)
    return "\n".join(
        [
            "# Metrics",
            "",
            "Served at `/metrics` of port `admin` (8081). Besides these, each process serves the usual series of a Python process.",
            "",
            "## Operator",
            "",
            *_series(REGISTRY),
            "",
            "## Gateway",
            "",
            *_series(gateway.registry, Processes().registry),
            "",
        ]
    )


def _series(*registries: CollectorRegistry) -> Iterator[str]:
    yield from ("| series | type | labels | |", "|---|---|---|---|")
    families = sorted((family for one in registries for family in _families(one)), key=lambda row: row[0])
    for name, kind, labels, text in families:
        yield _row(f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), text)


def _families(registry: CollectorRegistry) -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    for collector in tuple(registry._collector_to_names):  # noqa: SLF001  the only list of collectors without a sample
        labels = tuple(getattr(collector, "_labelnames", ()))
        describe = getattr(collector, "describe", None) or collector.collect
        for family in describe():
            if not family.name.startswith(_PROCESS):
                known = labels or tuple(getattr(family, "_labelnames", ()))
                suffix = "_total" if family.type == "counter" else ""
                yield family.name + suffix, family.type, known, family.documentation


def render_values() -> str:
    """Every value of the chart, with the comment above it."""
    chart = ROOT / "charts" / "lull"
    values = read_values((chart / "values.yaml").read_text(), json.loads((chart / "values.schema.json").read_text()))
    rows = [_row(f"`{path}`", _code(default), comment) for path, default, comment in values]
    return "\n".join(
        [
            "# Values of the chart",
            "",
            "`values.schema.json` refuses every other name.",
            "",
            "| value | default | |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def read_values(text: str, schema: dict[str, Any]) -> Iterator[tuple[str, object, str]]:
    """Path, default and comment of each value: of what the schema knows no further fields."""
    root = yaml.compose(text)
    yield from _leaves(root, (), text.splitlines(), schema)


def _leaves(
    node: yaml.Node | None, path: tuple[str, ...], lines: list[str], schema: dict[str, Any]
) -> Iterator[tuple[str, object, str]]:
    assert isinstance(node, yaml.MappingNode)
    for key, value in node.value:
        inner = schema["properties"][key.value]
        if "properties" in inner:
            yield from _leaves(value, (*path, key.value), lines, inner)
        else:
            default = yaml.safe_load(yaml.serialize(value))
            yield ".".join((*path, key.value)), default, _comment(lines, key.start_mark.line)


def _comment(lines: list[str], line: int) -> str:
    above: list[str] = []
    while line > 0 and lines[line - 1].strip().startswith("#"):
        line -= 1
        above.insert(0, lines[line].strip().lstrip("#").removeprefix(" --").strip())
    return " ".join(above)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') if chr(92) not in cell else cell for cell in cells)} |"


def _code(value: object) -> str:
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


PAGES: Final[dict[str, Callable[[], str]]] = {
    "fields.md": render_fields,
    "conditions.md": render_conditions,
    "metrics.md": render_metrics,
    "values.md": render_values,
}


def main() -> int:
    """Write the pages, or compare them; 1 where one differs."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page differs")
    check = parser.parse_args().check
    FOLDER.mkdir(exist_ok=True)
    stale = []
    for name, render in PAGES.items():
        page = FOLDER / name
        text = "<!-- Generated by `make docs`. -->\n" + render()
        if check and (not page.is_file() or page.read_text() != text):
            stale.append(name)
        elif not check:
            page.write_text(text)
    if stale:
        print(f"docs/reference: {', '.join(stale)} differ from the code; `make docs` writes them anew", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
