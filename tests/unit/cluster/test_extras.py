"""What of other projects is taken, and that it is exactly that."""

import json
from pathlib import Path

import pytest

from e2e.cluster import tools
from e2e.cluster.extras import LWS, LWS_MANAGER, crds, read_download
from e2e.cluster.model import ClusterError


def test_finds_the_folder_of_what_was_downloaded() -> None:
    found = read_download(json.dumps({"Dir": "/modules/lws", "Sum": LWS.digest}), LWS)

    assert found == Path("/modules/lws")


def test_takes_no_other_content_under_the_same_version() -> None:
    with pytest.raises(ClusterError, match="is expected"):
        read_download(json.dumps({"Dir": "/modules/lws", "Sum": "h1:other="}), LWS)


def test_says_why_nothing_was_downloaded() -> None:
    with pytest.raises(ClusterError, match="no such host"):
        read_download(json.dumps({"Path": LWS.path, "Error": "no such host"}), LWS)


def test_takes_from_the_cache_without_asking_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LULL_CACHE", str(tmp_path))
    cached = tmp_path / "crds" / LWS.version / "leaderworkerset.x-k8s.io_leaderworkersets.yaml"
    cached.parent.mkdir(parents=True)
    cached.touch()

    assert crds("lws") == cached


def test_the_controller_is_built_at_the_version_of_its_crd() -> None:
    module = Path(tools.__file__).parent / "go" / LWS_MANAGER.module

    assert f"{LWS.path} {LWS.version} " in (module / "go.mod").read_text()
    assert f"{LWS.path} {LWS.version} {LWS.digest}" in (module / "go.sum").read_text()
