"""The local cluster on paper."""

import json
from pathlib import Path

import pytest

from e2e.cluster import layout
from e2e.cluster.model import NODES
from e2e.cluster.tools import Toolbox

FOLDER = Path("/var/lib/lull/cluster")
MACHINE = layout.Machine(cgroup_v2=False, sys_resource=False, cni=Path("/usr/lib/cni"), snapshotter="overlayfs")


class _AnyTool(dict[str, Path]):
    def __missing__(self, name: str) -> Path:
        return Path("/bin") / name


TOOLS = Toolbox(_AnyTool())


def test_nodes_share_no_address_no_range_and_no_folder() -> None:
    nodes = layout.local_nodes(FOLDER)

    for places in (
        {node.address for node in nodes} | {layout.API_ADDRESS},
        {node.pod_range for node in nodes} | {layout.POD_RANGE},
        {str(node.folder) for node in nodes} | {str(FOLDER)},
        {node.cgroup for node in nodes} | {layout.CGROUP},
    ):
        assert len(places) == len(nodes) + 1


def test_unix_sockets_fit_in_an_address() -> None:
    assert all(len(str(node.socket)) < 100 for node in layout.local_nodes(FOLDER))


@pytest.mark.parametrize("name", layout.process_names())
def test_every_process_is_known_by_its_command_line(name: str) -> None:
    argv = layout.command(name, folder=FOLDER, tools=TOOLS, containerd="/usr/bin/containerd")

    assert layout.is_ours(argv, FOLDER)
    assert not layout.is_ours(argv, Path("/var/lib/lull/clus"))


def test_strangers_are_not_ours() -> None:
    assert not layout.is_ours(["/usr/bin/containerd"], FOLDER)
    assert not layout.is_ours(["vim", "/var/lib/lull/cluster/Corefile"], FOLDER)


def test_a_shim_belongs_to_the_node_whose_containerd_it_reports_to() -> None:
    first, second, _ = layout.local_nodes(FOLDER)
    argv = ["/usr/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "-id", "x", "-address", str(first.socket)]

    assert layout.is_shim_of(argv, first)
    assert not layout.is_shim_of(argv, second)
    assert layout.is_ours(argv, FOLDER)


@pytest.mark.parametrize("cgroup_v2", [False, True])
def test_kubelet_refuses_cgroup_v1_only_where_there_is_v2(cgroup_v2: bool) -> None:
    files = layout.render_files(
        FOLDER, layout.Machine(cgroup_v2=cgroup_v2, sys_resource=True, cni=Path("/cni"), snapshotter="overlayfs")
    )

    kubelet = json.loads(files[FOLDER / "lull-worker" / "kubelet.yaml"])

    assert kubelet["failCgroupV1"] is cgroup_v2
    assert kubelet["podLogsDir"] == "/var/lib/lull/cluster/lull-worker/logs"


@pytest.mark.parametrize(("sys_resource", "restricted"), [(False, "true"), (True, "false")])
def test_containerd_leaves_oom_scores_alone_where_it_may_not_lower_them(sys_resource: bool, restricted: str) -> None:
    machine = layout.Machine(cgroup_v2=False, sys_resource=sys_resource, cni=Path("/cni"), snapshotter="overlayfs")

    rendered = layout.render_files(FOLDER, machine)[FOLDER / "lull-worker2" / "containerd.toml"]

    assert f"restrict_oom_score_adj = {restricted}" in rendered


def test_every_file_lies_in_the_clusters_folder() -> None:
    assert all(path.is_relative_to(FOLDER) for path in layout.render_files(FOLDER, MACHINE))


def test_every_kubeconfig_has_its_certificate() -> None:
    identities = {identity.file for identity in layout.identities()}

    assert {"admin", "kube-proxy", *(node.name for node in NODES)} <= identities
    assert layout.build_kubeconfig(FOLDER, "admin")["users"][0]["user"]["client-key"] == f"{FOLDER}/pki/admin.key"


def test_finds_pods_links_among_routes() -> None:
    routes = json.dumps([{"dst": "10.244.1.2", "dev": "veth1"}, {"type": "blackhole", "dst": "10.244.1.0/24"}])

    assert layout.pod_links(routes) == ["veth1"]
    assert layout.pod_links("") == []


@pytest.mark.parametrize(
    ("hook", "policy", "drops"), [("forward", "drop", True), ("forward", "accept", False), ("input", "drop", False)]
)
def test_sees_a_firewall_that_drops_forwarded_packets(hook: str, policy: str, drops: bool) -> None:
    chains = {"nftables": [{"metainfo": {}}, {"chain": {"name": "x", "hook": hook, "policy": policy}}]}

    assert layout.drops_forwarded(json.dumps(chains)) is drops
