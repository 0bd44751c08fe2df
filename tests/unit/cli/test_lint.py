from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lull.cli import app

RUN = CliRunner()
WARNED = """\
apiVersion: lull.dev/v1alpha1
kind: LLMDeployment
metadata: {name: a}
spec:
  model: {source: hf://org/name}
  resources: {memory: 16Gi}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.yaml"


def test_every_example_has_no_error(pytestconfig: pytest.Config) -> None:
    examples = sorted((pytestconfig.rootpath / "crds" / "examples").glob("*.yaml"))

    result = RUN.invoke(app, ["lint", *map(str, examples)])

    assert result.exit_code == 0, result.output


def test_a_finding_reads_as_compilers_write_it(file: Path) -> None:
    file.write_text(WARNED.replace("hf:", "ftp:"))

    result = RUN.invoke(app, ["lint", str(file)])

    assert result.exit_code == 1
    assert result.output.startswith(f"{file}:5: error: spec.model.source: ")


def test_a_warning_fails_only_where_it_is_asked_to(file: Path) -> None:
    file.write_text(WARNED)

    assert RUN.invoke(app, ["lint", str(file)]).exit_code == 0
    assert RUN.invoke(app, ["lint", "--strict", str(file)]).exit_code == 1


def test_speaks_json(file: Path) -> None:
    file.write_text(WARNED)

    (finding,) = json.loads(RUN.invoke(app, ["lint", "-o", "json", str(file)]).stdout)

    assert finding["file"] == str(file)
    assert (finding["line"], finding["severity"], finding["where"]) == (5, "warning", "spec.model.source")


def test_reads_standard_input() -> None:
    result = RUN.invoke(app, ["lint", "-"], input=WARNED)

    assert result.output.startswith("-:5: warning: spec.model.source: ")


def test_a_file_that_is_not_there_is_told(file: Path) -> None:
    result = RUN.invoke(app, ["lint", str(file)])

    assert result.exit_code == 1
    assert "No such file" in result.output
