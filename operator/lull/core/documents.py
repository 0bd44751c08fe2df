"""YAML documents with the line of each of their fields, and findings that name it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any, Final

import yaml

Path = tuple[str | int, ...]

# libyaml reads ten times as fast; wheels of PyYAML have it.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@unique
class Severity(StrEnum):
    ERROR = "error"
    """The API server or Lull refuses it, or drops it without a word."""
    WARNING = "warning"
    """It works, and is likely not what was meant."""


@dataclass(frozen=True, slots=True)
class Finding:
    line: int
    """Counted from 1."""
    severity: Severity
    where: str
    """The field, as `spec.model.source`; empty for the document itself."""
    message: str


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document, with the line of each of its fields."""

    value: Any
    lines: dict[Path, int]
    twice: tuple[tuple[Path, int], ...]
    """Keys that stand twice in one mapping: YAML takes the last, and nobody is told."""

    def find_line(self, path: Path) -> int:
        """Line of a field, or of what it would stand in."""
        return self.lines[self.trim(path)]

    def trim(self, path: Path) -> Path:
        """The part of a path that is there."""
        while path not in self.lines and path:
            path = path[:-1]
        return path


def parse_documents(text: str) -> tuple[Document, ...]:
    """The documents of a YAML text; YAMLError where it is none."""
    loader = _LOADER(text)
    documents = []
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # check_node has just said so
            lines: dict[Path, int] = {}
            twice: list[tuple[Path, int]] = []
            _walk(node, (), lines, twice)
            documents.append(Document(loader.construct_document(node), lines, tuple(twice)))
    finally:
        loader.dispose()
    return tuple(documents)


def find_yaml_error(error: yaml.YAMLError) -> Finding:
    """Where and why a text is no YAML."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "context", None) or str(error)
    return Finding(mark.line + 1 if mark else 1, Severity.ERROR, "", f"is no YAML: {problem}")


def render_path(path: Path) -> str:
    """A field as users write it: `spec.placement.pools[0].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def render_finding(file: str, finding: Finding) -> str:
    """One line in the form in which compilers speak: editors and CI systems make links of it."""
    where = f"{finding.where}: " if finding.where else ""
    return f"{file}:{finding.line}: {finding.severity}: {where}{finding.message}"


def _walk(node: yaml.Node, path: Path, lines: dict[Path, int], twice: list[tuple[Path, int]]) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            if here in lines:
                twice.append((here, key.start_mark.line + 1))
            lines[here] = key.start_mark.line + 1
            _walk(value, here, lines, twice)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), lines, twice)
