"""What of other projects is taken, and that it is exactly that."""

import json
from pathlib import Path

import pytest

from e2e.cluster.extras import CRDS, Extra, crds, read_download
from e2e.cluster.model import ClusterError

LWS = CRDS[Extra.LWS]


def test_finds_the_file_in_what_was_downloaded() -> None:
    found = read_download(json.dumps({"Dir": "/modules/lws", "Sum": LWS.digest}), LWS)

    assert found == Path("/modules/lws") / LWS.file


def test_takes_no_other_content_under_the_same_version() -> None:
    with pytest.raises(ClusterError, match="is expected"):
        read_download(json.dumps({"Dir": "/modules/lws", "Sum": "h1:other="}), LWS)


def test_says_why_nothing_was_downloaded() -> None:
    with pytest.raises(ClusterError, match="no such host"):
        read_download(json.dumps({"Path": LWS.path, "Error": "no such host"}), LWS)


def test_takes_from_the_cache_without_asking_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LULL_CACHE", str(tmp_path))
    cached = tmp_path / "crds" / LWS.version / Path(LWS.file).name
    cached.parent.mkdir(parents=True)
    cached.touch()

    assert crds("lws") == cached
