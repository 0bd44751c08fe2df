"""The provider for a cluster that is somebody else's: it is used as it is, and changed only on request."""

import os
import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from e2e.cluster.archives import Image
from e2e.cluster.base import Cluster, run
from e2e.cluster.model import GPU, GPUS_PER_NODE, ClusterError, Node, Provider
from e2e.cluster.nodes import choose_nodes, match_profiles, settle
from e2e.cluster.tools import Toolbox, find_clients
from e2e.progress import step


def load_argv(template: str, *, archive: Path, node: str) -> list[str]:
    """Fill in a command line in which {archive} and {node} stand for what they say."""
    return [word.format(archive=archive, node=node) for word in shlex.split(template)]


class ExistingCluster(Cluster):
    """A cluster behind a kubeconfig that the user named."""

    provider = Provider.EXISTING

    def __init__(self, folder: Path, kubeconfig: Path, *, adopt: bool = False) -> None:
        super().__init__(folder)
        self._kubeconfig = kubeconfig
        self._adopt = adopt

    @cached_property
    def _clients(self) -> Toolbox:
        return find_clients()

    @property
    @override
    def kubeconfig(self) -> Path:
        return self._kubeconfig

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
        if matched := match_profiles(self.client().get("/api/v1/nodes")["items"]):
            return matched
        raise ClusterError(
            "The cluster lacks one on-demand node in zone-a, one spot node in zone-a and one spot node in zone-b, each with the labels of "
            f"docs/local-cluster.md and {GPU}: {GPUS_PER_NODE}; label them, or let `up --adopt` do it."
        )

    @override
    def exists(self) -> bool:
        return self._kubeconfig.exists()

    @override
    def up(self) -> None:
        if not self._kubeconfig.exists():
            raise ClusterError(f"There is no kubeconfig at {self._kubeconfig}.")
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._adopt:
            with step("check the nodes' labels and GPUs"):
                _ = self.nodes
            return
        nodes = self.client().get("/api/v1/nodes")["items"]
        chosen = match_profiles(nodes) or choose_nodes(nodes)
        with step(f"adopt {', '.join(node.name for node in chosen)}"):
            settle(self.client(), dict.fromkeys(chosen))

    @override
    def down(self) -> None:
        self._forget()

    @override
    def stop_node(self, name: str, *, hard: bool = False) -> NoReturn:
        raise ClusterError(f"{name} is a machine of a cluster that was not started here; stop it where it runs.")

    @override
    def start_node(self, name: str) -> NoReturn:
        raise ClusterError(f"{name} is a machine of a cluster that was not started here; start it where it runs.")

    @override
    def _stop_api_server(self) -> NoReturn:
        raise ClusterError("The API server belongs to a cluster that was not started here; stop it where it runs.")

    @override
    def _start_api_server(self) -> NoReturn:
        raise ClusterError("The API server belongs to a cluster that was not started here; start it where it runs.")

    @override
    def _load_on(self, node: Node, archive: Path, images: Sequence[Image]) -> None:
        template = os.environ.get("LULL_LOAD_COMMAND")
        if not template:
            raise ClusterError(
                "An existing cluster has no common way to take an image: set LULL_LOAD_COMMAND to the command that does it, with "
                "{archive} and {node} in it, as in 'minikube image load {archive}', or push the image to a registry that its nodes reach."
            )
        run(load_argv(template, archive=archive, node=node.name))
