"""docs/operating.md says what the code says. `python -m tests.unit.test_operating_docs` rewrites its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lull.core.status import REMEDIES
from lull.settings import GatewaySettings, OperatorSettings

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"


def settings_table() -> str:
    of_gateway = GatewaySettings.model_fields
    shared = {
        name
        for name, field in OperatorSettings.model_fields.items()
        if name in of_gateway and field.description == of_gateway[name].description
    }
    rows = ["| variable | of | default | |", "|---|---|---|---|"]
    for settings, process in ((OperatorSettings, "operator"), (GatewaySettings, "gateway")):
        for name, field in settings.model_fields.items():
            if name not in shared or settings is OperatorSettings:
                of = "both" if name in shared else process
                rows.append(f"| `LULL_{name.upper()}` | {of} | `{field.default!r}` | {field.description or ''} |")
    return "\n".join(rows)


def reasons_table() -> str:
    return "\n".join(["| reason | what to do |", "|---|---|", *(f"| `{key}` | {REMEDIES[key]} |" for key in REMEDIES)])


TABLES = {"settings": settings_table, "reasons": reasons_table}


def rewritten(page: str, name: str) -> str:
    table = f"<!-- {name} -->\n{TABLES[name]()}\n<!-- /{name} -->"
    return re.sub(f"<!-- {name} -->.*?<!-- /{name} -->", lambda _: table, page, flags=re.DOTALL)


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_those_of_the_code(name: str) -> None:
    page = PAGE.read_text()

    assert rewritten(page, name) == page, "run: uv run python -m tests.unit.test_operating_docs"


if __name__ == "__main__":
    text = PAGE.read_text()
    for table_name in TABLES:
        text = rewritten(text, table_name)
    PAGE.write_text(text)
