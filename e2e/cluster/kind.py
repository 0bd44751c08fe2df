"""The provider for machines with Docker: kind makes the nodes, everything else is shared."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from typing_extensions import override

from e2e.cluster.archives import Image
from e2e.cluster.base import Cluster, has_all, naming_commands, parse_present, run
from e2e.cluster.model import NAME, NODES, ClusterError, Node, Provider
from e2e.cluster.nodes import settle
from e2e.cluster.tools import Toolbox, find_clients
from e2e.progress import step

CONFIG = Path(__file__).with_name("kind.yaml")


CONTROL_PLANE = f"{NAME}-control-plane"


def create_argv(kubeconfig: Path) -> list[str]:
    return ["kind", "create", "cluster", f"--name={NAME}", f"--config={CONFIG}", f"--kubeconfig={kubeconfig}"]


def delete_argv(kubeconfig: Path) -> list[str]:
    return ["kind", "delete", "cluster", f"--name={NAME}", f"--kubeconfig={kubeconfig}"]


def load_argv(archive: Path, node: str) -> list[str]:
    return ["kind", "load", "image-archive", str(archive), f"--name={NAME}", f"--nodes={node}"]


def ctr_argv(node: str, arguments: Sequence[str]) -> list[str]:
    return ["docker", "exec", node, "ctr", "--namespace=k8s.io", *arguments]


def stop_argvs(node: str, *, hard: bool) -> list[list[str]]:
    """Say how a machine goes off: its processes are killed, not asked; cut off first, its peers hear nothing at all."""
    kill = ["docker", "kill", node]
    return [["docker", "network", "disconnect", "--force", "kind", node], kill] if hard else [kill]


def start_argvs(node: str, *, connected: bool) -> list[list[str]]:
    connect = [] if connected else [["docker", "network", "connect", "kind", node]]
    return [*connect, ["docker", "start", node]]


def is_available() -> bool:
    """Tell whether kind is there and a Docker daemon answers."""
    if not (shutil.which("kind") and shutil.which("docker")):
        return False
    try:
        answer = subprocess.run(
            ["docker", "version", "--format={{.Server.Version}}"],
            capture_output=True,
            check=False,
            timeout=10,
        )
    except subprocess.TimeoutExpired:
        return False
    return answer.returncode == 0


class KindCluster(Cluster):
    """Four containers that kind runs as a control plane and three workers."""

    provider = Provider.KIND

    @cached_property
    def _clients(self) -> Toolbox:
        return find_clients()

    @property
    @override
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    @override
    def kubectl(self) -> Path:
        return self._clients["kubectl"]

    @property
    @override
    def helm(self) -> Path:
        return self._clients["helm"]

    @property
    @override
    def nodes(self) -> tuple[Node, ...]:
        return NODES

    @override
    def exists(self) -> bool:
        return is_available() and NAME in run(["kind", "get", "clusters"]).split()

    @override
    def up(self) -> None:
        if not is_available():
            raise ClusterError(
                "The provider kind needs `kind` on PATH and a Docker daemon that answers: install and start them."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.exists():
            with step("kind create cluster"):
                run(create_argv(self.kubeconfig))
        else:
            run(["kind", "export", "kubeconfig", f"--name={NAME}", f"--kubeconfig={self.kubeconfig}"])
            for node in (CONTROL_PLANE, *(node.name for node in NODES)):
                self._start(node)
        with step("nodes Ready, with labels and GPUs"):
            settle(self.client(), dict.fromkeys(NODES), seconds=180)

    @override
    def down(self) -> None:
        if self.exists():
            with step("kind delete cluster"):
                run(delete_argv(self.kubeconfig))
        self._forget("kubeconfig")

    @override
    def stop_node(self, name: str, *, hard: bool = False) -> None:
        with step(f"stop {self.node(name).name}"):
            for argv in stop_argvs(name, hard=hard):
                run(argv)

    @override
    def start_node(self, name: str) -> None:
        node = self.node(name)
        with step(f"start {name}"):
            self._start(name)
            settle(self.client(), {node: None}, seconds=180)

    @override
    def _stop_api_server(self) -> None:
        run(["docker", "pause", CONTROL_PLANE])

    @override
    def _start_api_server(self) -> None:
        run(["docker", "unpause", CONTROL_PLANE])
        settle(self.client(), dict.fromkeys(NODES), seconds=180)

    @override
    def _load_on(self, node: Node, archive: Path, images: Sequence[Image]) -> None:
        if has_all(parse_present(run(ctr_argv(node.name, ["images", "ls"]))), images):
            return
        run(load_argv(archive, node.name))
        for arguments in naming_commands(images):
            run(ctr_argv(node.name, arguments))

    def _start(self, node: str) -> None:
        [state] = json.loads(run(["docker", "inspect", node]))
        if not state["State"]["Running"]:
            for argv in start_argvs(node, connected="kind" in state["NetworkSettings"]["Networks"]):
                run(argv)
