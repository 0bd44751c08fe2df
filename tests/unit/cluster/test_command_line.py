"""The command line says one clear sentence and fails."""

import os
from pathlib import Path

import pytest

from e2e.cluster.__main__ import build_parser, main
from e2e.cluster.local import extend_environment


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


def test_local_says_that_it_needs_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LULL_CACHE", str(tmp_path))
    monkeypatch.setenv("LULL_CLUSTER_DIR", str(tmp_path / "cluster"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("sys.platform", "linux")

    code = main(["--provider", "local", "up"])

    assert code == 1
    assert "needs root: run it with sudo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--provider", "existing", "up"], "needs a kubeconfig"),
        (["--kubeconfig", "/nonexistent/kubeconfig", "up"], "There is no kubeconfig at"),
        (["--provider", "kind", "up"], "needs `kind` on PATH"),
    ],
)
def test_a_provider_says_what_it_lacks(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LULL_CACHE", str(tmp_path))
    monkeypatch.setenv("LULL_CLUSTER_DIR", str(tmp_path / "cluster"))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("LULL_KUBECONFIG", "LULL_PROVIDER"):
        monkeypatch.delenv(name, raising=False)

    assert main(arguments) == 1
    assert words in capsys.readouterr().err


def test_local_keeps_what_the_user_had_in_front_and_adds_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/mine:/usr/bin")
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv("no_proxy", "")

    extend_environment()
    once = dict(os.environ)
    extend_environment()

    assert os.environ["PATH"].startswith("/mine:/usr/bin:/usr/local/sbin")
    assert os.environ["NO_PROXY"].startswith("example.org,10.231.0.0/24")
    assert dict(os.environ) == once
