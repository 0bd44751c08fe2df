"""Image archives: what they are called, and that what is written can be read."""

import tarfile
from pathlib import Path

import pytest

from e2e.cluster.archives import (
    Image,
    normalize_reference,
    parse_docker_manifest,
    parse_index,
    read_images,
    write_image,
)
from e2e.cluster.model import ClusterError


@pytest.mark.parametrize(
    ("reference", "full"),
    [
        ("lull/lull:dev-abc", "docker.io/lull/lull:dev-abc"),
        ("docker.io/lull/lull:dev-abc", "docker.io/lull/lull:dev-abc"),
        ("busybox", "docker.io/library/busybox:latest"),
        ("localhost/pause:1", "localhost/pause:1"),
        ("registry:5000/a/b", "registry:5000/a/b:latest"),
        ("ghcr.io/a/b@sha256:00", "ghcr.io/a/b@sha256:00"),
    ],
)
def test_writes_out_what_a_short_reference_leaves_out(reference: str, full: str) -> None:
    assert normalize_reference(reference) == full


def test_prefers_the_full_name_that_containerd_reads() -> None:
    annotations = {"io.containerd.image.name": "docker.io/a/b:1", "org.opencontainers.image.ref.name": "1"}

    images = parse_index({"manifests": [{"digest": "sha256:1", "annotations": annotations}]})

    assert images == (Image("docker.io/a/b:1", "sha256:1"),)


def test_a_bare_tag_names_no_image() -> None:
    annotations = {"org.opencontainers.image.ref.name": "latest"}

    assert (
        parse_index({"manifests": [{"digest": "sha256:1", "annotations": annotations}, {"digest": "sha256:2"}]}) == ()
    )


def test_reads_what_docker_save_writes() -> None:
    assert parse_docker_manifest([{"RepoTags": ["lull/lull:1"]}, {"RepoTags": None}]) == (Image("lull/lull:1", None),)


def test_reads_back_what_it_wrote_and_writes_the_same_bytes_again(tmp_path: Path) -> None:
    binary = tmp_path / "pause"
    binary.write_bytes(b"program")

    for name in ("one.tar", "two.tar"):
        write_image(tmp_path / name, reference="docker.io/a/b:1", binary=binary, entrypoint=["/pause"], machine="amd64")

    [image] = read_images(tmp_path / "one.tar")
    assert image.reference == "docker.io/a/b:1"
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_an_archive_without_a_name_says_how_to_give_one(tmp_path: Path) -> None:
    archive = tmp_path / "empty.tar"
    tarfile.open(archive, "w").close()

    with pytest.raises(ClusterError, match="names no image"):
        read_images(archive)


def test_a_file_that_is_no_archive_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text("not a tar")

    with pytest.raises(ClusterError, match="cannot be read"):
        read_images(tmp_path / "x.tar")
