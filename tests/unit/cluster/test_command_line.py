"""The command line says one clear sentence and fails."""

from pathlib import Path

import pytest

from e2e.cluster.__main__ import build_parser, main


def test_an_error_is_one_sentence_and_exit_code_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LULL_CACHE", str(tmp_path))
    monkeypatch.setenv("LULL_CLUSTER_DIR", str(tmp_path / "cluster"))

    code = main(["--provider", "local", "kubeconfig"])

    assert code == 1
    assert capsys.readouterr().err == "error: No cluster is up: start one with `make cluster`.\n"


def test_taking_down_what_is_not_there_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LULL_CACHE", str(tmp_path))
    monkeypatch.setenv("LULL_CLUSTER_DIR", str(tmp_path / "cluster"))

    assert main(["--provider", "local", "down"]) == 0


def test_nodes_may_be_named_in_one_go_or_one_by_one() -> None:
    options = build_parser().parse_args(["load", "a.tar", "b.tar", "--node", "x", "y", "--node", "z"])

    assert options.archives == [Path("a.tar"), Path("b.tar")]
    assert options.node == ["x", "y", "z"]
