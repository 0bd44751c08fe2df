"""docs/operating.md says what the code says. `python -m tests.unit.test_operating_docs` rewrites its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lull.core.status import REMEDIES
from lull.settings import GatewaySettings, OperatorSettings

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"


def settings_table() -> str:
    shared = OperatorSettings.model_fields.keys() & GatewaySettings.model_fields.keys()
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


def test_a_variable_means_the_same_to_every_process_that_reads_it() -> None:
    of_operator, of_gateway = OperatorSettings.model_fields, GatewaySettings.model_fields

    for name in of_operator.keys() & of_gateway.keys():
        assert repr(of_operator[name]) == repr(of_gateway[name]), f"LULL_{name.upper()} means two things"


if __name__ == "__main__":
    text = PAGE.read_text()
    for table_name in TABLES:
        text = rewritten(text, table_name)
    PAGE.write_text(text)
