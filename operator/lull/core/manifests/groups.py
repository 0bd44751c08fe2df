"""A replica that spans nodes: a group of pods, which LeaderWorkerSet makes, numbers and recreates as one.

The leader is the engine: it alone serves HTTP, is ready when every member has joined, and counts as the replica. The
workers are the rest of it. vLLM does not notice when a member dies, so the whole group starts again with any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.core.manifests.arguments import STARTUP_SECONDS
from lull.core.manifests.metadata import build_workload_metadata, freeze
from lull.core.manifests.pods import (
    CONTAINER_ENGINE,
    PRE_STOP_SECONDS,
    build_template,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.api.placement import PoolSpec
    from lull.api.spec import RolloutSpec
    from lull.core.manifests.settings import BuildSettings

API_VERSION: Final = "leaderworkerset.x-k8s.io/v1"
KIND: Final = "LeaderWorkerSet"

_LABEL_GROUP: Final = "leaderworkerset.sigs.k8s.io/group-key"
"""LeaderWorkerSet gives it to every pod, with one value for each group."""
_ZONE: Final = "topology.kubernetes.io/zone"

# A group is recreated when a member's engine was restarted, so members are often told to stop while they start. Process 1
# of a container takes no SIGTERM before it asks for it, which vLLM does seconds late, and would stay for the whole grace
# period; Python asks for SIGINT at once. No curl and no kill, as vLLM's image need not have them.
_STOP_LEADER: Final = f"""\
import os, signal, socket, time
time.sleep({PRE_STOP_SECONDS})
try:
    socket.create_connection(("127.0.0.1", {names.PORT_ENGINE}), timeout=2).close()
except OSError:
    os.kill(1, signal.SIGINT)
"""
# A worker goes on computing until its leader, told at the same time, has finished its requests and closed its port.
_STOP_WORKER: Final = f"""\
import os, signal, socket, time
try:
    while True:
        socket.create_connection((os.environ["LWS_LEADER_ADDRESS"], {names.PORT_ENGINE}), timeout=2).close()
        time.sleep(0.5)
except OSError:
    os.kill(1, signal.SIGINT)
"""


def is_grouped(deployment: LLMDeployment) -> bool:
    """Whether a replica is a group of pods."""
    return deployment.spec.accelerator.nodes_per_replica > 1


def build_group(deployment: LLMDeployment, pool: PoolSpec, revision: str, settings: BuildSettings) -> Manifest:
    """The LeaderWorkerSet of one pool, without `spec.replicas`, which is the autoscaler's."""
    template = _build_members(deployment, build_template(deployment, pool, revision, settings))
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            **build_workload_metadata(deployment, pool, settings),
            "annotations": {names.LABEL_REVISION: revision, names.ANNOTATION_TEMPLATE: freeze(template)},
        },
        "spec": {
            "startupPolicy": "LeaderCreated",
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": {"partition": 0, **_build_rollout(deployment.spec.rollout)},
            },
            "networkConfig": {"subdomainPolicy": "Shared"},
            "leaderWorkerTemplate": template,
        },
    }


def member_labels(deployment: LLMDeployment) -> dict[str, str]:
    """Labels that select every pod of an LLMDeployment: engines, and the workers of groups."""
    name = deployment.key.name
    return {names.LABEL_DEPLOYMENT: name} if is_grouped(deployment) else names.engine_labels(name)


def peers_rule(deployment: LLMDeployment) -> list[Manifest]:
    """Ingress rules by which the members of a group reach each other: on any port, as vLLM chooses them freely."""
    return [{"from": [{"podSelector": {"matchLabels": member_labels(deployment)}}]}] if is_grouped(deployment) else []


def _build_members(deployment: LLMDeployment, template: Manifest) -> Manifest:
    nodes = deployment.spec.accelerator.nodes_per_replica
    common = [
        *("--nnodes", str(nodes)),
        *("--master-addr", "$(LWS_LEADER_ADDRESS)"),
        # Members wait for each other from when the first has its weights until the last has.
        *("--distributed-timeout-seconds", str(STARTUP_SECONDS)),
    ]
    leader = _with_engine(template, lambda engine: _build_leader(engine, common))
    worker = _with_engine(template, lambda engine: _build_worker(engine, common))
    # Leaders spread over zones as replicas do; a worker goes where its leader is.
    following = {key: value for key, value in worker["spec"].items() if key != "topologySpreadConstraints"}
    labels = {**template["metadata"]["labels"], names.LABEL_COMPONENT: names.COMPONENT_WORKER}
    worker = {"metadata": {**worker["metadata"], "labels": labels}, "spec": following}
    return {
        "size": nodes,
        "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": _near_its_group(deployment, leader),
        "workerTemplate": _near_its_group(deployment, worker),
    }


def _build_leader(engine: Manifest, common: list[str]) -> Manifest:
    return {**engine, "args": [*engine["args"], *common, "--node-rank", "0"], **_build_lifecycle(_STOP_LEADER)}


def _build_worker(engine: Manifest, common: list[str]) -> Manifest:
    # It listens to its group alone: nothing to probe, and no port to name.
    kept = {key: engine[key] for key in engine if key != "ports" and not key.endswith("Probe")}
    return {
        **kept,
        # The API server count goes last: vLLM refuses to start headless with one that a user may have set.
        "args": [
            *engine["args"],
            *common,
            *("--node-rank", "$(LWS_WORKER_INDEX)"),
            "--headless",
            *("--api-server-count", "0"),
        ],
        **_build_lifecycle(_STOP_WORKER),
    }


def _build_lifecycle(script: str) -> Manifest:
    return {"lifecycle": {"preStop": {"exec": {"command": ["python3", "-c", script]}}}}


def _with_engine(template: Manifest, change: Callable[[Manifest], Manifest]) -> Manifest:
    containers = [
        change(container) if container["name"] == CONTAINER_ENGINE else container
        for container in template["spec"]["containers"]
    ]
    return {**template, "spec": {**template["spec"], "containers": containers}}


def _near_its_group(deployment: LLMDeployment, template: Manifest) -> Manifest:
    """Keep a group in one zone where there is room."""
    near = {
        "podAffinityTerm": {
            "labelSelector": {"matchLabels": member_labels(deployment)},
            "matchLabelKeys": [_LABEL_GROUP],
            "topologyKey": _ZONE,
        },
        "weight": 100,
    }
    affinity = template["spec"].get("affinity", {})
    pod_affinity = affinity.get("podAffinity", {})
    preferred = [*pod_affinity.get("preferredDuringSchedulingIgnoredDuringExecution", []), near]
    return {
        **template,
        "spec": {
            **template["spec"],
            "affinity": {
                **affinity,
                "podAffinity": {**pod_affinity, "preferredDuringSchedulingIgnoredDuringExecution": preferred},
            },
        },
    }


def _build_rollout(rollout: RolloutSpec) -> Manifest:
    surge, unavailable = rollout.max_surge, rollout.max_unavailable
    # A Deployment takes a percentage that comes to no replica for one; LeaderWorkerSet refuses the object.
    if surge in {0, "0%"} and isinstance(unavailable, str):
        unavailable = 1
    return {"maxSurge": surge, "maxUnavailable": unavailable}
