from __future__ import annotations

from pathlib import Path

import pytest

from lull.fetcher.failures import Forbidden
from lull.fetcher.options import Endpoints, parse_endpoints, read_credentials


def test_reads_the_operators_settings() -> None:
    environment = {
        "HF_ENDPOINT": " https://mirror.example/ ",
        "AWS_ENDPOINT_URL": "http://minio:9000/",
        "LULL_GS_ENDPOINT": "",
        "LULL_OCI_PLAIN_HTTP": "registry.local:5000,, 10.0.0.1 ",
    }

    assert parse_endpoints(environment) == Endpoints(
        hub="https://mirror.example",
        s3="http://minio:9000",
        plain_http=frozenset({"registry.local:5000", "10.0.0.1"}),
    )
    assert parse_endpoints({}) == Endpoints()


def test_reads_the_keys_that_it_knows(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_a\n")
    (tmp_path / "AWS_REGION").write_text("")
    (tmp_path / "other").write_text("x")

    assert read_credentials(tmp_path, {"HF_TOKEN": "hf_b"}) == {"token": "hf_a"}
    assert read_credentials(None, {"HF_TOKEN": "hf_b"}) == {"token": "hf_b"}
    assert read_credentials(tmp_path / "none", {}) == {}


def test_a_secret_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()

    with pytest.raises(Forbidden, match="token of the mounted Secret cannot be read"):
        read_credentials(tmp_path, {})
