"""The few commands that differ from provider to provider, and what they share."""

from pathlib import Path

import pytest
import yaml

from e2e.cluster import existing, kind
from e2e.cluster.archives import Image
from e2e.cluster.base import find_port, has_all, naming_commands, parse_present
from e2e.cluster.model import ClusterError

IMAGE = Image("lull/lull:1", "sha256:1")
FULL = Image("docker.io/lull/lull:1", "sha256:1")
LISTING = """\
REF                   TYPE                                       DIGEST   SIZE    PLATFORMS   LABELS
docker.io/lull/lull:1 application/vnd.oci.image.manifest.v1+json sha256:1 1.0 MiB linux/amd64 -
"""


def test_creates_and_deletes_the_cluster_with_a_kubeconfig_of_its_own() -> None:
    path = Path("/c/kubeconfig")

    assert kind.create_argv(path)[:4] == ["kind", "create", "cluster", "--name=lull"]
    assert kind.delete_argv(path) == ["kind", "delete", "cluster", "--name=lull", "--kubeconfig=/c/kubeconfig"]


def test_the_kind_cluster_has_one_control_plane_and_three_workers() -> None:
    config = yaml.safe_load(kind.CONFIG.read_text())

    assert [node["role"] for node in config["nodes"]] == ["control-plane", "worker", "worker", "worker"]
    assert all(yaml.safe_load(patch)["kind"] for patch in config["kubeadmConfigPatches"])


def test_loads_an_archive_into_one_node() -> None:
    argv = kind.load_argv(Path("/a.tar"), "lull-worker")

    assert argv == ["kind", "load", "image-archive", "/a.tar", "--name=lull", "--nodes=lull-worker"]


def test_a_hard_stop_cuts_the_network_first_and_a_start_brings_it_back() -> None:
    assert kind.stop_argvs("n", hard=False) == [["docker", "kill", "n"]]
    assert kind.stop_argvs("n", hard=True)[0][:3] == ["docker", "network", "disconnect"]
    assert kind.start_argvs("n", connected=True) == [["docker", "start", "n"]]
    assert kind.start_argvs("n", connected=False)[0][:3] == ["docker", "network", "connect"]


def test_a_load_command_is_filled_in_word_by_word() -> None:
    argv = existing.load_argv("minikube image load '{archive}' -n {node}", archive=Path("/a b.tar"), node="n")

    assert argv == ["minikube", "image", "load", "/a b.tar", "-n", "n"]


def test_an_image_is_there_only_with_its_full_name_and_the_same_content() -> None:
    present = parse_present(LISTING)

    assert has_all(present, [IMAGE])
    assert not has_all(present, [Image("lull/lull:1", "sha256:2")])
    assert not has_all(present, [Image("lull/lull:1", None)])
    assert not has_all(parse_present(""), [IMAGE])


def test_a_short_name_is_replaced_by_the_full_one() -> None:
    assert naming_commands([FULL]) == []
    assert naming_commands([IMAGE]) == [
        ["images", "tag", "--force", "lull/lull:1", "docker.io/lull/lull:1"],
        ["images", "rm", "lull/lull:1"],
    ]


def test_finds_a_port_by_name_and_by_number() -> None:
    service = {"metadata": {"name": "s"}, "spec": {"ports": [{"name": "http", "port": 80}, {"port": 81}]}}

    assert (find_port(service, "http"), find_port(service, 81)) == (80, 81)
    with pytest.raises(ClusterError, match="no port 82"):
        find_port(service, 82)
