"""Specs that break one rule each: the API server and `parse_llmdeployment` must refuse them in the same words."""

from __future__ import annotations

from typing import Any, Final

HUB: Final = {"source": "hf://org/name"}
CPU: Final = {"vendor": "Cpu"}


def _pool(**fields: Any) -> dict[str, Any]:
    return {"model": HUB, "placement": {"pools": [{"name": "default", **fields}]}}


BROKEN_RULES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "source climbs": ({"model": {"source": "file:///models/../etc"}}, "source must not contain '..'"),
    "alias repeats name": ({"model": {**HUB, "name": "a", "aliases": ["a"]}}, "aliases must not repeat name"),
    "secret for a claim": (
        {"model": {"source": "pvc://claim/path", "secretName": "token"}},
        "secretName is for hf:// sources; pvc:// and file:// are read without credentials",
    ),
    "library preloaded": (
        {"model": HUB, "engine": {"env": [{"name": "LD_PRELOAD", "value": "/tmp/x.so"}]}},
        "env must not set LD_* or PYTHON*: they load code into the engine",
    ),
    "module path set": (
        {"model": HUB, "engine": {"env": [{"name": "PYTHONPATH", "value": "/tmp"}]}},
        "env must not set LD_* or PYTHON*: they load code into the engine",
    ),
    "product on a CPU": (
        {"model": HUB, "engine": {"image": "cpu"}, "accelerator": {**CPU, "product": "NVIDIA-L4"}},
        "product names a GPU: leave it out where vendor is Cpu",
    ),
    "resource on a CPU": (
        {"model": HUB, "engine": {"image": "cpu"}, "accelerator": {**CPU, "resourceName": "nvidia.com/gpu"}},
        "resourceName asks for devices: leave it out where vendor is Cpu",
    ),
    "GPU image on a CPU": (
        {"model": HUB, "accelerator": CPU},
        "vllm/vllm-openai needs an Nvidia GPU: set engine.image to a CPU build of vLLM",
    ),
    "shared memory above memory": (
        {"model": HUB, "resources": {"memory": "1Gi", "sharedMemory": "1024Mi"}},
        "memory must be greater than sharedMemory, which counts towards it",
    ),
    "minimum above maximum": (
        {"model": HUB, "scaling": {"minReplicas": 3, "maxReplicas": 2}},
        "minReplicas must not be greater than maxReplicas",
    ),
    "minimum above the default maximum": (
        {"model": HUB, "scaling": {"minReplicas": 9}},
        "minReplicas must not be greater than maxReplicas",
    ),
    "drain for hours": ({"model": HUB, "rollout": {"drain": "1h1s"}}, "drain must not be longer than 1h"),
    "selector without a label key": (
        _pool(nodeSelector={"-zone": "a"}),
        "nodeSelector has a key that is no label key: [prefix/]name",
    ),
    "toleration of a value that exists": (
        _pool(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]),
        "value goes with operator Equal only",
    ),
    "toleration of nothing": (_pool(tolerations=[{"value": "b"}]), "operator Equal needs a key"),
    "toleration for a while": (
        _pool(tolerations=[{"key": "a", "value": "b", "effect": "NoSchedule", "tolerationSeconds": 5}]),
        "tolerationSeconds goes with effect NoExecute only",
    ),
}

WRONG_FIELDS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no model": ({}, "spec.model"),
    "no source": ({"model": {}}, "spec.model.source"),
    "plain web address": ({"model": {"source": "https://example.org/model"}}, "spec.model.source"),
    "object store": ({"model": {"source": "s3://bucket/model"}}, "spec.model.source"),
    "served name with a space": ({"model": {**HUB, "name": "my model"}}, "spec.model.name"),
    "unknown vendor": ({"model": HUB, "accelerator": {"vendor": "Abacus"}}, "spec.accelerator.vendor"),
    "no tensor parallel rank": ({"model": HUB, "parallelism": {"tensor": 0}}, "spec.parallelism.tensor"),
    "quantity in words": ({"model": HUB, "resources": {"memory": "much"}}, "spec.resources.memory"),
    "duration without a unit": ({"model": HUB, "scaling": {"idleAfter": "600"}}, "spec.scaling.idleAfter"),
    "hold in words": ({"model": HUB, "queue": {"holdFor": "Forever"}}, "spec.queue.holdFor"),
    "negative replicas": ({"model": HUB, "replicas": -1}, "spec.replicas"),
    "no pool": ({"model": HUB, "placement": {"pools": []}}, "spec.placement.pools"),
    "number as text": ({"model": HUB, "scaling": {"maxReplicas": "many"}}, "spec.scaling.maxReplicas"),
}
