from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lull.cli import app
from tests.golden.cases import CASES
from tests.manifests import manifest

RUN = CliRunner()


@pytest.mark.parametrize("example", ["minimal", "gpu", "cpu", "sim"])
def test_renders_every_example(pytestconfig: pytest.Config, example: str) -> None:
    result = RUN.invoke(app, ["render", str(pytestconfig.rootpath / "crds" / "examples" / f"{example}.yaml")])

    kinds = [child["kind"] for child in yaml.safe_load_all(result.stdout)]
    assert kinds == ["NetworkPolicy", "Service", "PodDisruptionBudget", "Deployment"]


def test_renders_what_the_operator_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in CASES if case.name == "minimal")
    monkeypatch.setenv("LULL_IMAGE", "lull/lull:0.1.0")
    applied = list(yaml.safe_load_all((case / "children.yaml").read_text()))
    for child in applied:
        del child["metadata"]["ownerReferences"]

    result = RUN.invoke(app, ["render", str(case / "model.yaml")])

    assert list(yaml.safe_load_all(result.stdout)) == applied


def test_renders_a_pod_monitor_where_it_is_told_that_the_cluster_takes_one() -> None:
    result = RUN.invoke(app, ["render", "-", "--pod-monitors"], input=json.dumps(manifest()))

    assert "PodMonitor" in {child["kind"] for child in yaml.safe_load_all(result.stdout)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_renders_every_golden_case(case: Path) -> None:
    result = RUN.invoke(app, ["render", str(case / "model.yaml")])

    assert result.exit_code == 0, result.stderr
    kinds = [child["kind"] for child in yaml.safe_load_all((case / "children.yaml").read_text())]
    assert [child["kind"] for child in yaml.safe_load_all(result.stdout)] == kinds


def test_reads_standard_input_and_takes_a_namespace() -> None:
    written = manifest()
    del written["metadata"]["namespace"]

    result = RUN.invoke(app, ["render", "-", "-n", "team-a"], input=json.dumps(written))

    assert {child["metadata"]["namespace"] for child in yaml.safe_load_all(result.stdout)} == {"team-a"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no LLMDeployment"),
        ("kind: Pod", "holds no LLMDeployment"),
        ("a: [", "while parsing"),
        (json.dumps({**manifest(), "spec": {}}), "llama-8b: spec.model: Field required"),
        (json.dumps(manifest(engine={"extraArgs": ["--port", "1"]})), "--port is refused"),
        (json.dumps({**manifest(), "metadata": None}), "metadata.name must be"),
    ],
)
def test_says_why_it_cannot_render(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(text)

    result = RUN.invoke(app, ["render", str(file)])

    assert result.exit_code == 1
    assert words in result.stderr


def test_says_which_file_is_missing() -> None:
    result = RUN.invoke(app, ["render", "nowhere.yaml"])

    assert result.exit_code == 1
    assert "nowhere.yaml" in result.stderr


def test_prints_the_crd(pytestconfig: pytest.Config) -> None:
    result = RUN.invoke(app, ["crd"])

    assert result.stdout == (pytestconfig.rootpath / "crds" / "llmdeployments.lull.dev.yaml").read_text()
