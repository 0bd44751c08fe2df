"""`lull crd`, as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lull.cli import app
from lull.cli.crd import render_crd


def test_prints_the_definition() -> None:
    assert CliRunner().invoke(app, ["crd"]).stdout == render_crd()


@pytest.mark.parametrize(("content", "code"), [(render_crd(), 0), ("kind: Other\n", 1)])
def test_compares_a_file(tmp_path: Path, *, content: str, code: int) -> None:
    path = tmp_path / "crd.yaml"
    path.write_text(content)

    result = CliRunner().invoke(app, ["crd", "--check", str(path)])

    assert result.exit_code == code
    assert ("make crds" in result.stderr) is (code == 1)


def test_a_file_that_is_not_there_differs(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["crd", "--check", str(tmp_path / "none.yaml")]).exit_code == 1
