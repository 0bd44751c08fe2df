from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lull.fetcher import distribution
from lull.fetcher.distribution import Challenge
from lull.fetcher.failures import Failed

DIGESTS = [f"sha256:{digit * 64}" for digit in "0123456789"]


def layer(media_type: str, **annotations: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": DIGESTS[1], "size": 5, "annotations": annotations}


@pytest.mark.parametrize(
    ("media_type", "annotations", "path"),
    [
        ("application/vnd.oci.image.layer.v1.tar", {"org.opencontainers.image.title": "./a/b.json"}, "a/b.json"),
        ("application/octet-stream", {"org.opencontainers.image.title": "b"}, "b"),
        ("application/vnd.cncf.model.weight.v1.raw", {"org.cncf.model.filepath": "m.safetensors"}, "m.safetensors"),
        ("application/vnd.cnai.model.weight.v1.tar", {"org.cnai.model.filepath": "m.safetensors"}, None),
        ("application/vnd.oci.image.layer.v1.tar", {}, None),
        ("application/vnd.oci.image.layer.v1.tar+gzip", {}, None),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", {}, None),
        ("application/vnd.kitops.modelkit.modelpart.v1.tar+gzip", {}, None),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip",
            {"org.opencontainers.image.title": "folder", "io.deis.oras.content.unpack": "true"},
            None,
        ),
    ],
)
def test_knows_what_a_layer_holds(media_type: str, annotations: dict[str, str], path: str | None) -> None:
    (found,) = distribution.parse_layers({"layers": [layer(media_type, **annotations)]})

    assert found.path == path
    assert found.file.address == DIGESTS[1]


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.in-toto+json",
        "application/vnd.kitops.modelkit.dataset.v1.tar",
        "application/vnd.cncf.model.doc.v1.tar",
    ],
)
def test_leaves_out_what_is_no_part_of_a_model(media_type: str) -> None:
    assert distribution.parse_layers({"layers": [layer(media_type)]}) == ()


def test_says_what_it_cannot_unpack() -> None:
    with pytest.raises(Failed, match="compressed with zstd"):
        distribution.parse_layers({"layers": [layer("application/vnd.oci.image.layer.v1.tar+zstd")]})


def test_picks_the_manifest_for_this_machine() -> None:
    entries = [
        {"digest": DIGESTS[0], "platform": {"os": "unknown", "architecture": "unknown"}},
        {"digest": DIGESTS[1], "platform": {"os": "windows", "architecture": "amd64"}},
        {"digest": DIGESTS[2], "platform": {"os": "linux", "architecture": "arm64"}},
        {"digest": DIGESTS[3], "platform": {"os": "linux", "architecture": "amd64"}},
    ]

    assert distribution.pick_manifest({"manifests": entries}, "amd64") == DIGESTS[3]
    assert distribution.pick_manifest({"manifests": entries}, "riscv64") == DIGESTS[1]
    assert distribution.pick_manifest({"manifests": [{"digest": DIGESTS[5]}]}, "amd64") == DIGESTS[5]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', Challenge("basic")),
        (
            'Bearer realm="https://a.example/token",service="r.example",scope="repository:a:pull"',
            Challenge("bearer", "https://a.example/token", "r.example"),
        ),
        ('BEARER Realm="https://a.example/token"', Challenge("bearer", "https://a.example/token")),
        ("Bearer", None),
        ("Negotiate", None),
        ("", None),
    ],
)
def test_reads_a_challenge(header: str, expected: Challenge | None) -> None:
    assert distribution.parse_challenge(header) == expected


@pytest.mark.parametrize("name", ["ghcr.io", "https://ghcr.io", "https://ghcr.io/v1/"])
def test_finds_a_login_under_any_of_a_registrys_names(name: str) -> None:
    auth = base64.b64encode(b"reader:a:b").decode()

    login = distribution.find_login(json.dumps({"auths": {"other": {}, name: {"auth": auth}}}), ["ghcr.io"])

    assert login is not None
    assert (login.username, login.password) == ("reader", "a:b")
    assert "a:b" not in repr(login)
    assert distribution.find_login(json.dumps({"auths": {name: {"auth": auth}}}), ["quay.io"]) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"auths": {"r": {"auth": "!"}}}', '{"auths": {"r": 5}}'])
def test_a_docker_config_that_is_none_is_said_to_be(text: str) -> None:
    with pytest.raises(Failed, match="cannot be read: make it with kubectl create secret docker-registry"):
        distribution.find_login(text, ["r"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(DIGESTS),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["layers", "manifests", "mediaType", "digest", "size", "annotations", "platform", "auths"]),
            inner,
        )
    ),
    max_leaves=10,
)


@given(JSON)
def test_whatever_a_registry_says_is_read_or_a_failure(answer: Any) -> None:
    with suppress(Failed):
        distribution.parse_layers(answer)
    with suppress(Failed):
        distribution.pick_manifest(answer, "amd64")
    with suppress(Failed):
        distribution.find_login(json.dumps(answer), ["r"])
