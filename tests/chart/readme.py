"""The table of values in the chart's README is what values.yaml says: `python -m tests.chart.readme` rewrites it."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

CHART = Path(__file__).parents[2] / "charts" / "lull"
README = CHART / "README.md"
VALUES = CHART / "values.yaml"

_KEY = re.compile(r"^(?P<indent> *)(?P<name>[A-Za-z0-9]+):")


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Path of every value; requests and limits are read as one."""
    for name, value in values.items():
        if isinstance(value, dict) and value and name != "resources":
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def get(values: dict[str, Any], path: str) -> Any:
    return functools.reduce(lambda inner, name: inner[name], path.split("."), values)


def comments(text: str) -> dict[str, str]:
    """The comment `# -- …` above a value, by the value's path."""
    found: dict[str, str] = {}
    parents: list[str] = []
    words: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            words = [stripped[4:].strip()] if stripped.startswith("# --") else [*words, stripped[1:].strip()]
        elif key := _KEY.match(line):
            parents = [*parents[: len(key["indent"]) // 2], key["name"]]
            found[".".join(parents)] = " ".join(words)
            words = []
    return found


def table() -> str:
    text = VALUES.read_text()
    values, described = yaml.safe_load(text), comments(text)
    rows = (f"| `{path}` | `{json.dumps(get(values, path))}` | {described[path]} |" for path in leaves(values))
    return "\n".join(("| Value | Default | |", "|---|---|---|", *rows))


def rewritten(page: str) -> str:
    return re.sub(
        "<!-- values -->.*<!-- /values -->",
        lambda _: f"<!-- values -->\n{table()}\n<!-- /values -->",
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text()))
