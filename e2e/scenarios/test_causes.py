"""Every cause for which a model is not served, produced for real: the LLMDeployment says which, and what to change."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

from e2e.cluster.model import GPUS_PER_NODE
from e2e.demo.story import real_deployment
from e2e.lab import conditions, open_lab, sim_deployment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from e2e.lab import Lab
    from lull.api.llmdeployment import Manifest

TAINTED: Final = "lull-worker3"
DISK_NODE: Final = "lull-worker2"
TAINT: Final = "e2e/reserved=true:NoSchedule"


@dataclass(frozen=True, slots=True)
class Cause:
    """What somebody wrote, and what they must read."""

    reason: str
    says: tuple[str, ...]
    """What the message names: what is wrong, then the field to change."""
    spec: dict[str, Any] = field(default_factory=dict)
    sim: dict[str, Any] = field(default_factory=dict)
    condition: str = "WorkloadsReady"


def _pool(**pool: Any) -> dict[str, Any]:
    return {"placement": {"pools": [{"name": "default", **pool}]}}


def _gpus(tensor: int) -> dict[str, Any]:
    return {"accelerator": {"vendor": "Nvidia"}, "parallelism": {"tensor": tensor}}


def _model(source: str, **model: Any) -> dict[str, Any]:
    return {"model": {"source": source, **model}}


SCHEDULING: Final = {
    "gpus-lacking": Cause(
        "InsufficientAccelerators",
        ("Insufficient nvidia.com/gpu", "spec.parallelism"),
        {**_gpus(GPUS_PER_NODE), "replicas": 4},
    ),
    "gpus-too-many": Cause(
        "AcceleratorsExceedNodes",
        (f"no node has more than {GPUS_PER_NODE}", "spec.parallelism"),
        _gpus(2 * GPUS_PER_NODE),
        condition="SpecValid",
    ),
    "memory-lacking": Cause(
        "InsufficientResources",
        ("Insufficient memory", "spec.resources.memory"),
        {"resources": {"memory": "64Ti", "sharedMemory": "16Mi"}},
    ),
    "taint": Cause(
        "TaintNotTolerated",
        ("e2e/reserved", "spec.placement.pools[].tolerations"),
        _pool(nodeSelector={"kubernetes.io/hostname": TAINTED}),
    ),
    "selector": Cause(
        "NodeSelectorMismatch",
        ("label e2e=nowhere", "spec.placement.pools"),
        _pool(nodeSelector={"e2e": "nowhere"}),
    ),
    "no-node": Cause(
        "NoMatchingNode",
        ("label e2e=nowhere", "spec.placement.pools"),
        _pool(nodeSelector={"e2e": "nowhere"}),
        condition="SpecValid",
    ),
    "claim-missing": Cause(
        "VolumePending",
        ('persistentvolumeclaim "no-such-claim" not found', "spec.model.cache.claimName"),
        _model("hf://lull/tiny", cache={"type": "PersistentVolumeClaim", "claimName": "no-such-claim"}),
    ),
    "claim-unbound": Cause(
        "VolumePending",
        ('"claim-unbound-cache" is not bound', "spec.model.cache.storageClassName"),
        _model("hf://lull/tiny", cache={"type": "PersistentVolumeClaim", "size": "1Gi"}),
    ),
    "groups-missing": Cause(
        "LeaderWorkerSetMissing",
        ("LeaderWorkerSet", "spec.accelerator.nodesPerReplica"),
        {"accelerator": {"vendor": "Nvidia", "nodesPerReplica": 2}, "parallelism": {"tensor": 2}},
        condition="SpecValid",
    ),
}
SOURCES: Final = {
    "source-forbidden": Cause("SourceForbidden", ("spec.model.secretName",), _model("hf://gated/tiny")),
    "source-missing": Cause(
        "SourceNotFound", ("no-such-model", "spec.model.source"), _model("hf://lull/no-such-model")
    ),
    "revision-missing": Cause("SourceNotFound", ("spec.model.source",), _model("hf://lull/tiny@no-such-revision")),
    "secret-missing": Cause(
        "SourceForbidden",
        ('"no-such-secret"', "spec.model.secretName"),
        _model("hf://gated/tiny", secretName="no-such-secret"),
    ),
    "disk-full": Cause(
        "DiskFull",
        ('"tiny"', "spec.model.cache.claimName"),
        {
            **_model("hf://lull/tiny", cache={"type": "PersistentVolumeClaim", "claimName": "tiny"}),
            **_pool(nodeSelector={"kubernetes.io/hostname": DISK_NODE}),
        },
    ),
    "heads-not-divided": Cause(
        "IncompatibleModel",
        ("parallelism.tensor",),
        {**_model("hf://lull/tiny"), "parallelism": {"tensor": 3}},
        condition="SpecValid",
    ),
}
PODS: Final = {
    "image": Cause(
        "ImagePullFailed",
        ("lull/no-such-image:none", "spec.engine.image"),
        {"engine": {"image": "lull/no-such-image:none"}},
    ),
    "image-name": Cause(
        "ImagePullFailed", ("spec.engine.image as registry/repository:tag",), {"engine": {"image": "Not An Image"}}
    ),
    "service-account": Cause(
        "ConfigError",
        ('"no-such-account" not found', "spec.podTemplate.serviceAccountName"),
        {"podTemplate": {"serviceAccountName": "no-such-account"}},
    ),
    "priority-class": Cause(
        "ConfigError",
        ("no-such-class", "spec.podTemplate.priorityClassName"),
        {"podTemplate": {"priorityClassName": "no-such-class"}},
    ),
    "variable": Cause(
        "ConfigError",
        ('secret "no-such-secret" not found', "spec.engine.env"),
        {"engine": {"env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "no-such-secret", "key": "key"}}}]}},
    ),
    "flag": Cause(
        "EngineArgumentInvalid",
        ("--sim-startup", "invalid float value", "spec.engine.extraArgs"),
        sim={"startup": "soon"},
    ),
    "memory": Cause(
        "EngineOutOfMemory",
        ("spec.resources.memory",),
        {"resources": {"memory": "192Mi", "sharedMemory": "16Mi"}},
        {"startup": 0.2, "eat_memory": 400},
    ),
    "crash-loop": Cause(
        "EngineCrashLoop",
        ("told to end with 3", "spec.engine", "kubectl logs"),
        sim={"startup": 0.2, "exit_after_startup": 3},
    ),
}
REFUSED: Final = {
    "quota": Cause("QuotaExceeded", ("exceeded quota: none", "ResourceQuota")),
    "limit": Cause(
        "PodForbidden",
        ("maximum memory usage per Container", "spec.resources"),
        {"resources": {"memory": "128Mi", "sharedMemory": "16Mi"}},
    ),
    "security": Cause(
        "PodForbidden",
        ('violates PodSecurity "restricted', "spec.model.cache.type"),
        _model("hf://lull/tiny", cache={"type": "HostPath", "path": "/var/tmp/lull-e2e"}),
    ),
}
_RULES: Final[dict[str, Manifest]] = {
    "quota": {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    },
    "limit": {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "small"},
        "spec": {"limits": [{"type": "Container", "max": {"memory": "32Mi"}}]},
    },
}


@pytest.mark.usefixtures("hub")
async def test_each_cause_reaches_the_llmdeployment_with_what_to_change(lab: Lab) -> None:
    async with _tainted(lab), _tiny_claim(lab), AsyncExitStack() as stack:
        labs = {**dict.fromkeys((*SCHEDULING, *SOURCES, *PODS), lab)}
        for name in REFUSED:
            labs[name] = await stack.enter_async_context(open_lab(lab.installation, f"{lab.namespace[:40]}-{name}"))
        await labs["security"].kubectl(
            "label", "namespace", labs["security"].namespace, "pod-security.kubernetes.io/enforce=restricted"
        )
        for name, rule in _RULES.items():
            await labs[name].apply(rule)
        causes = {**SCHEDULING, **SOURCES, **PODS, **REFUSED}
        for place in {each.namespace: each for each in labs.values()}.values():
            await place.apply(*(_write(place, name, causes[name]) for name in causes if labs[name] is place))

        read = await asyncio.gather(*(_read(labs[name], name, cause) for name, cause in causes.items()))

    wrong = {name: said for name, said in zip(causes, read, strict=True) if not _fits(causes[name], said)}
    assert not wrong, "\n".join(f"{name}: {said}" for name, said in wrong.items())


@pytest.mark.usefixtures("hub")
async def test_real_vllm_whose_engine_core_cannot_start_says_why(lab: Lab) -> None:
    written = real_deployment(lab.installation.images["engine-cpu"], "cramped")
    written["spec"] |= {"replicas": 1}
    written["spec"]["engine"] |= {
        "maxModelLen": 8192,
        "extraArgs": ["--kv-cache-memory-bytes=64K"],
        "env": [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "0"}],
    }
    await lab.apply(written)

    condition = await lab.until_condition("cramped", "Ready", "False", "EngineOutOfMemory")

    assert "No available memory for the cache blocks" in condition["message"]
    assert "spec.engine.gpuMemoryUtilization" in condition["message"]


async def test_an_event_says_each_cause_once_also_when_the_operator_starts_anew(lab: Lab) -> None:
    await lab.apply(_write(lab, "image", PODS["image"]))
    await lab.until_condition("image", "WorkloadsReady", "False", "ImagePullFailed")

    async def said() -> list[str]:
        events = await lab.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}")
        return [reason for reason in events.split() if reason == "ImagePullFailed"]

    await lab.until("the Event is there", said)
    await asyncio.to_thread(
        lab.installation.kubectl, "-n", "lull-system", "rollout", "restart", "deployment/lull-operator"
    )
    await asyncio.to_thread(
        lab.installation.kubectl, "-n", "lull-system", "rollout", "status", "deployment/lull-operator", "--timeout=120s"
    )
    await lab.apply(sim_deployment(lab.installation, "proof", replicas=0))
    await lab.until_condition("proof", "ScalingActive", "False", "Manual")

    assert await said() == ["ImagePullFailed"]


async def test_a_rollout_that_fails_keeps_serving_and_says_why(lab: Lab) -> None:
    written = sim_deployment(lab.installation, "rolled", replicas=1)
    await lab.apply(written)
    await lab.until_condition("rolled", "Ready", "True", "Serving")

    written["spec"]["engine"]["image"] = "lull/no-such-image:none"
    await lab.apply(written)
    stalled = await lab.until_condition("rolled", "Stalled", "True", "ImagePullFailed")

    ready = conditions(await lab.llm("rolled"))["Ready"]
    assert ready["status"] == "True"
    assert "spec.engine.image" in ready["message"]
    assert "lull/no-such-image:none" in stalled["message"]


def _write(lab: Lab, name: str, cause: Cause) -> Manifest:
    return sim_deployment(lab.installation, name, sim=cause.sim, **{"replicas": 1, **cause.spec})


async def _read(lab: Lab, name: str, cause: Cause) -> dict[str, str]:
    """What the condition says once it gives the reason, or at last."""
    said: dict[str, str] = {}
    with suppress(TimeoutError):
        async with asyncio.timeout(150):
            while said.get("reason") != cause.reason:
                await asyncio.sleep(1)
                said = conditions(await lab.llm(name)).get(cause.condition, {})
    return {part: said.get(part, "") for part in ("status", "reason", "message")}


def _fits(cause: Cause, said: dict[str, str]) -> bool:
    is_warning = cause.reason == "NoMatchingNode"
    return (
        said["reason"] == cause.reason
        and said["status"] == str(is_warning)
        and all(words in said["message"] for words in cause.says)
    )


@asynccontextmanager
async def _tainted(lab: Lab) -> AsyncIterator[None]:
    """One node that takes only what tolerates it."""
    await asyncio.to_thread(lab.installation.kubectl, "taint", "node", TAINTED, TAINT, "--overwrite")
    try:
        yield
    finally:
        await asyncio.to_thread(lab.installation.kubectl, "taint", "node", TAINTED, f"{TAINT}-", check=False)


@asynccontextmanager
async def _tiny_claim(lab: Lab) -> AsyncIterator[None]:
    """A claim of a volume with 128 KiB, and not a byte more: the memory volume of another pod on the same node."""
    await lab.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "disk"},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": DISK_NODE},
                "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsUser": 2000, "runAsGroup": 0, "fsGroup": 0},
                "containers": [
                    {
                        "name": "disk",
                        "image": lab.installation.images["engine-sim"],
                        "command": ["python3", "-c", "import time; time.sleep(3600)"],
                        "volumeMounts": [{"name": "tiny", "mountPath": "/tiny"}],
                    }
                ],
                "volumes": [{"name": "tiny", "emptyDir": {"medium": "Memory", "sizeLimit": "128Ki"}}],
            },
        }
    )
    await lab.kubectl("wait", "--for=condition=Ready", "pod/disk", "--timeout=60s")
    uid = await lab.kubectl("get", "pod", "disk", "-o", "jsonpath={.metadata.uid}")
    folder = lab.installation.cluster.kubelet_folder(DISK_NODE)
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": lab.namespace},
        "spec": {
            "capacity": {"storage": "128Ki"},
            "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": lab.namespace, "name": "tiny"},
            "hostPath": {"path": f"{folder}/pods/{uid}/volumes/kubernetes.io~empty-dir/tiny", "type": "Directory"},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "tiny"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "volumeName": lab.namespace,
            "resources": {"requests": {"storage": "128Ki"}},
        },
    }
    await asyncio.to_thread(lab.installation.apply, volume)
    try:
        await lab.apply(claim)
        yield
    finally:
        await asyncio.to_thread(lab.installation.kubectl, "delete", "pv", lab.namespace, "--wait=false", check=False)
