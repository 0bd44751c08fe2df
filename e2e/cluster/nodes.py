"""Nodes through the API: which profile each carries, and the patches that give it one."""

import datetime as dt
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.model import GPU, GPUS_PER_NODE, PROFILES, ClusterError, Node, Profile

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kubectl:
    """One kubectl, bound to one kubeconfig."""

    executable: Path
    kubeconfig: Path
    cache: Path

    def argv(self, *arguments: str) -> list[str]:
        return [
            str(self.executable),
            f"--kubeconfig={self.kubeconfig}",
            f"--cache-dir={self.cache}",
            *arguments,
        ]

    def run(self, *arguments: str) -> str:
        """Run kubectl and return what it printed; its own words are the error."""
        answer = subprocess.run(
            self.argv("--request-timeout=10s", *arguments), capture_output=True, text=True, check=False
        )
        if answer.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments[:3])}: {answer.stderr.strip()}")
        return answer.stdout

    def get(self, path: str) -> Manifest:
        """Read one object or list by its path in the API."""
        answer: Manifest = json.loads(self.run("get", f"--raw={path}"))
        return answer


def is_ready(node: Manifest, *, since: dt.datetime | None = None) -> bool:
    """Tell whether a node is Ready, and said so itself no earlier than `since`."""
    for condition in node.get("status", {}).get("conditions", ()):
        if condition["type"] == "Ready" and condition["status"] == "True":
            heartbeat = dt.datetime.fromisoformat(condition["lastHeartbeatTime"])
            return since is None or heartbeat >= since.replace(microsecond=0)
    return False


def has_profile(node: Manifest, profile: Profile) -> bool:
    """Tell whether a node carries a profile's labels and its GPUs."""
    labels = node["metadata"].get("labels", {})
    status = node.get("status", {})
    return all(labels.get(key) == value for key, value in profile.labels.items()) and all(
        status.get(kind, {}).get(GPU) == str(GPUS_PER_NODE) for kind in ("capacity", "allocatable")
    )


def match_profiles(nodes: Sequence[Manifest]) -> tuple[Node, ...] | None:
    """Find a node for each profile among those that carry one; None where one is missing."""
    matched = []
    free = sorted(nodes, key=lambda node: str(node["metadata"]["name"]))
    for profile in PROFILES:
        found = next((node for node in free if has_profile(node, profile)), None)
        if found is None:
            return None
        free.remove(found)
        matched.append(Node(found["metadata"]["name"], profile))
    return tuple(matched)


def choose_nodes(nodes: Sequence[Manifest]) -> tuple[Node, ...]:
    """Give each profile a node that is ready, takes pods, and is not of the control plane."""
    usable = sorted(
        node["metadata"]["name"]
        for node in nodes
        if is_ready(node)
        and not node["spec"].get("unschedulable")
        and "node-role.kubernetes.io/control-plane" not in node["metadata"].get("labels", {})
    )
    if len(usable) < len(PROFILES):
        raise ClusterError(f"The cluster has {len(usable)} ready worker nodes; {len(PROFILES)} are needed.")
    return tuple(Node(name, profile) for name, profile in zip(usable, PROFILES, strict=False))


def profile_patches(node: Node) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Build the two merge patches that give a node its profile: of its labels and of its status."""
    gpus = {GPU: str(GPUS_PER_NODE)}
    return {"metadata": {"labels": node.profile.labels}}, {"status": {"capacity": gpus, "allocatable": gpus}}


def give_profile(kubectl: Kubectl, node: Node) -> None:
    """Label a node and give it its GPUs."""
    labels, status = profile_patches(node)
    kubectl.run("patch", "node", node.name, "--type=merge", f"--patch={json.dumps(labels)}")
    kubectl.run("patch", "node", node.name, "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}")


def settle(kubectl: Kubectl, nodes: Mapping[Node, dt.datetime | None], *, seconds: float = 60) -> None:
    """Wait until all nodes are Ready with their profiles, giving them where they are missing.

    A kubelet that starts takes the GPUs away when it registers. With each node comes the moment of its start, where it was started just
    now: what it said before that does not count.
    """
    deadline = time.monotonic() + seconds
    missing = dict(nodes)
    with ThreadPoolExecutor(len(nodes)) as pool:
        while True:
            seen = {node["metadata"]["name"]: node for node in kubectl.get("/api/v1/nodes")["items"]}
            ready = [node for node, since in missing.items() if is_ready(seen.get(node.name, {}), since=since)]
            bare = [node for node in ready if not has_profile(seen[node.name], node.profile)]
            missing = {node: since for node, since in missing.items() if node not in ready or node in bare}
            if not missing:
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"Not ready after {seconds:.0f} s: {', '.join(node.name for node in missing)}.")
            list(pool.map(lambda node: give_profile(kubectl, node), bare))
            if not bare:
                time.sleep(0.2)
