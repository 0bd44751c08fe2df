"""Specs that break one rule each: the API server and `parse_llmdeployment` must refuse them in the same words."""

from __future__ import annotations

from typing import Any, Final

HUB: Final = {"source": "hf://org/name"}
CPU: Final = {"vendor": "Cpu"}
SUPPORT: Final = {"name": "support", "source": "s3://bucket/support"}
RESERVED: Final = "lull.dev/, app.kubernetes.io/, kubernetes.io/, leaderworkerset.sigs.k8s.io/"


def _pool(**fields: Any) -> dict[str, Any]:
    return {"model": HUB, "placement": {"pools": [{"name": "default", **fields}]}}


def _cache(**fields: Any) -> dict[str, Any]:
    return {"model": {**HUB, "cache": fields}}


def _engine(**fields: Any) -> dict[str, Any]:
    return {"model": HUB, "engine": fields}


def _pods(**fields: Any) -> dict[str, Any]:
    return {"model": HUB, "podTemplate": fields}


BROKEN_RULES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "source climbs": ({"model": {"source": "file:///models/../etc"}}, "source must not contain '..'"),
    "alias repeats name": ({"model": {**HUB, "name": "a", "aliases": ["a"]}}, "aliases must not repeat name"),
    "secret for a claim": (
        {"model": {"source": "pvc://claim/path", "secretName": "token"}},
        "secretName is for hf://, s3://, gs:// and oci:// sources; pvc:// and file:// are read without credentials",
    ),
    "cache for what is in place": (
        {"model": {"source": "pvc://claim/path", "cache": {"type": "HostPath", "path": "/models"}}},
        "cache is for sources that are fetched; pvc:// and file:// are in place already",
    ),
    "claim without a size": (
        _cache(type="PersistentVolumeClaim"),
        "type PersistentVolumeClaim needs either size (Lull creates the claim) or claimName (it is there already)",
    ),
    "claim with a size and a name": (
        _cache(type="PersistentVolumeClaim", size="40Gi", claimName="weights"),
        "type PersistentVolumeClaim needs either size (Lull creates the claim) or claimName (it is there already)",
    ),
    "claim for another type": (
        _cache(claimName="weights"),
        "claimName and storageClassName go with type PersistentVolumeClaim",
    ),
    "storage class of a claim that is there": (
        _cache(type="PersistentVolumeClaim", claimName="weights", storageClassName="fast"),
        "storageClassName and accessMode are for a claim that Lull creates: leave them out beside claimName",
    ),
    "access mode without a claim": (
        _cache(accessMode="ReadWriteOnce"),
        "accessMode goes with type PersistentVolumeClaim",
    ),
    "folder of no node": (
        _cache(type="HostPath"),
        "type HostPath needs path, and path goes with type HostPath only",
    ),
    "folder with a size": (
        _cache(type="HostPath", path="/models", size="40Gi"),
        "a HostPath has no size: leave size out",
    ),
    "folder that climbs": (
        _cache(type="HostPath", path="/models/../etc"),
        "path must not contain '..'",
    ),
    "draft without a model": (
        _engine(speculative={"method": "Draft"}),
        "methods Draft, Eagle and Eagle3 need model; the others work without one",
    ),
    "lookup with a model": (
        _engine(speculative={"method": "Ngram", "model": "hf://org/draft"}),
        "methods Draft, Eagle and Eagle3 need model; the others work without one",
    ),
    "variable with two values": (
        _engine(env=[{"name": "A", "value": "b", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
        "value and valueFrom exclude each other",
    ),
    "fewer tokens than requests in a step": (
        _engine(maxNumSeqs=256, maxNumBatchedTokens=128),
        "maxNumBatchedTokens must not be less than maxNumSeqs: each request needs a token per step",
    ),
    "compiled code without a home": (
        _engine(compileCache="ModelCache"),
        "engine.compileCache ModelCache needs a model.cache that outlives the pod: set model.cache.type",
    ),
    "offload above memory": (
        {"model": HUB, "engine": {"kvOffload": {"cpu": "32Gi"}}, "resources": {"memory": "32Gi"}},
        "resources.memory must be greater than engine.kvOffload.cpu, which counts towards it",
    ),
    "guessing ahead of an embedding": (
        {"model": {**HUB, "task": "Embed"}, "engine": {"speculative": {"method": "Ngram"}}},
        "engine.speculative guesses tokens of an answer: it goes with model.task Generate only",
    ),
    "pool's product on a CPU": (
        {**_pool(product="NVIDIA-L4"), "accelerator": CPU},
        "a pool's product names an accelerator: leave it out where accelerator.vendor is Cpu",
    ),
    "uneven nodes": (
        {"model": HUB, "parallelism": {"tensor": 8}, "accelerator": {"nodesPerReplica": 3}},
        "parallelism.tensor x pipeline x data must be a multiple of accelerator.nodesPerReplica",
    ),
    "more accelerators than any node has": (
        {"model": HUB, "parallelism": {"tensor": 8, "pipeline": 4}},
        "no node has more than 16 accelerators: raise accelerator.nodesPerReplica or lower parallelism",
    ),
    "experts over one accelerator": (
        {"model": HUB, "parallelism": {"expert": True}},
        "parallelism.expert needs parallelism.tensor or parallelism.data above 1 to spread experts over",
    ),
    "data parallel over many nodes": (
        {"model": HUB, "parallelism": {"tensor": 8, "data": 4}, "accelerator": {"nodesPerReplica": 4}},
        "parallelism.data spans at most 2 nodes per replica",
    ),
    "base on spot": (
        {"model": HUB, "placement": {"onDemandBase": "50%", "pools": [{"name": "spot", "capacityType": "Spot"}]}},
        "onDemandBase needs a pool that is not Spot",
    ),
    "pools smaller than the minimum": (
        {**_pool(maxReplicas=2), "scaling": {"minReplicas": 3}},
        "the pools' maxReplicas together must not be less than scaling.minReplicas",
    ),
    "schedule above the maximum": (
        {"model": HUB, "scaling": {"schedules": [{"cron": "0 8 * * *", "duration": "1h", "minReplicas": 9}]}},
        "a schedule's minReplicas must not be greater than maxReplicas",
    ),
    "schedule of a moment": (
        {"model": HUB, "scaling": {"schedules": [{"cron": "0 8 * * *", "duration": "1s", "minReplicas": 1}]}},
        "duration must be between 1m and 168h",
    ),
    "adapter with the model's alias": (
        {"model": {**HUB, "aliases": ["support"]}, "adapters": {"items": [SUPPORT]}},
        "an adapter must not have the model's name or one of its aliases",
    ),
    "adapter with the model's name": (
        {"model": {**HUB, "name": "support"}, "adapters": {"items": [SUPPORT]}},
        "an adapter must not have the model's name or one of its aliases",
    ),
    "adapter with the object's name": (
        {"model": HUB, "adapters": {"items": [{**SUPPORT, "name": "llama-8b"}]}},
        "an adapter must not have the LLMDeployment's name, which is the model's: set spec.model.name",
    ),
    "adapter that climbs": (
        {"model": HUB, "adapters": {"items": [{"name": "support", "source": "s3://bucket/../other"}]}},
        "source must not contain '..'",
    ),
    "fewer places in memory than on the accelerator": (
        {"model": HUB, "adapters": {"maxLoaded": 8, "cpuSlots": 4}},
        "cpuSlots must not be less than maxLoaded",
    ),
    "fallback to itself": (
        {"model": {**HUB, "aliases": ["small"]}, "fallback": ["small"]},
        "fallback must name other models, none of this one's names, aliases and adapters",
    ),
    "fallback to its own adapter": (
        {"model": HUB, "adapters": {"items": [SUPPORT]}, "fallback": ["support"]},
        "fallback must name other models, none of this one's names, aliases and adapters",
    ),
    "fallback to the object's name": (
        {"model": HUB, "fallback": ["llama-8b"]},
        "fallback and routes must not name the LLMDeployment itself: its name is the model's, as spec.model.name is not set",
    ),
    "route to the object's name": (
        {"model": HUB, "routes": [{"model": "llama-8b", "maxPromptTokens": 100}]},
        "fallback and routes must not name the LLMDeployment itself: its name is the model's, as spec.model.name is not set",
    ),
    "route to itself": (
        {"model": {**HUB, "name": "big"}, "routes": [{"model": "big", "maxPromptTokens": 100}]},
        "routes must name other models, none of this one's names, aliases and adapters",
    ),
    "longer prompts first": (
        {
            "model": HUB,
            "routes": [{"model": "a", "maxPromptTokens": 200}, {"model": "b", "maxPromptTokens": 100}],
        },
        "routes must come with rising maxPromptTokens: the first that a prompt fits is taken",
    ),
    "the same prompts twice": (
        {
            "model": HUB,
            "routes": [{"model": "a", "maxPromptTokens": 100}, {"model": "b", "maxPromptTokens": 100}],
        },
        "routes must come with rising maxPromptTokens: the first that a prompt fits is taken",
    ),
    "no time for a first byte": (
        {"model": HUB, "requests": {"timeouts": {"firstByte": "10ms"}}},
        "firstByte must be between 1s and 2h",
    ),
    "silence for a day": (
        {"model": HUB, "requests": {"timeouts": {"betweenChunks": "24h"}}},
        "betweenChunks must be between 1s and 2h",
    ),
    "no end": ({"model": HUB, "requests": {"timeouts": {"total": "48h"}}}, "total must be between 1s and 24h"),
    "answers kept for weeks": (
        {"model": HUB, "requests": {"cache": {"ttl": "336h"}}},
        "ttl must be between 1s and 24h",
    ),
    "room for no answer": (
        {"model": HUB, "requests": {"cache": {"maxBytes": "1Ki"}}},
        "maxBytes must be between 64Ki and 1Gi",
    ),
    "no way to replace a pod": (
        {"model": HUB, "rollout": {"maxSurge": "0%"}},
        "maxSurge and maxUnavailable must not both be 0: no pod could be replaced",
    ),
    "label of Lull's own": (
        _pods(metadata={"labels": {"lull.dev/pool": "mine"}}),
        f"labels has a key that is no label key or that is reserved: {RESERVED}",
    ),
    "annotation of Kubernetes' own": (
        _pods(metadata={"annotations": {"kubernetes.io/x": "y"}}),
        f"annotations has a key that is no label key or that is reserved: {RESERVED}",
    ),
    "selector of every pool without a label key": (
        _pods(nodeSelector={"-zone": "a"}),
        "nodeSelector has a key that is no label key: [prefix/]name",
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
        "product names an accelerator: leave it out where vendor is Cpu",
    ),
    "resource on a CPU": (
        {"model": HUB, "engine": {"image": "cpu"}, "accelerator": {**CPU, "resourceName": "nvidia.com/gpu"}},
        "resourceName asks for devices: leave it out where vendor is Cpu",
    ),
    "GPU image on a CPU": (
        {"model": HUB, "engine": {"image": "vllm/vllm-openai:v0.33.0"}, "accelerator": CPU},
        "vllm/vllm-openai needs an Nvidia GPU: leave engine.image out, or set it to an image of the vendor",
    ),
    "shared memory above memory": (
        {"model": HUB, "resources": {"memory": "1Gi", "sharedMemory": "1024Mi"}},
        "memory must be greater than sharedMemory, which counts towards it",
    ),
    "minimum above maximum": (
        {"model": HUB, "scaling": {"minReplicas": 3, "maxReplicas": 2}},
        "minReplicas must not be greater than maxReplicas",
    ),
    "sleep that begins when the replica goes": (
        {"model": HUB, "scaling": {"idleAfter": "1m", "sleep": {"after": "1m"}}},
        "sleep.after must be shorter than idleAfter, after which the last replica goes",
    ),
    "sleep between two requests": (
        {"model": HUB, "scaling": {"sleep": {"after": "1s"}}},
        "sleep.after must be between 5s and 168h",
    ),
    "sleep on what has no sleep mode": (
        {"model": HUB, "accelerator": {"vendor": "Tpu"}, "scaling": {"sleep": {}}},
        (
            "scaling.sleep is vLLM's for GPUs: leave it out, or set accelerator.vendor to Nvidia or Amd "
            "(Cpu sleeps as well, and frees nothing)"
        ),
    ),
    "sleep of a group": (
        {
            "model": HUB,
            "accelerator": {"nodesPerReplica": 2},
            "parallelism": {"pipeline": 2},
            "scaling": {"sleep": {}},
        },
        "scaling.sleep needs a replica to be one pod: leave it out, or set accelerator.nodesPerReplica to 1",
    ),
    "deep sleep with adapters": (
        {"model": HUB, "adapters": {"items": [SUPPORT]}, "scaling": {"sleep": {"level": 2}}},
        "scaling.sleep.level 2 would drop the adapters with the weights: set it to 1",
    ),
    "budget without an amount": (
        {"model": HUB, "scaling": {"budget": {}}},
        "budget needs perHour, perMonth or both",
    ),
    "no time to the first token": (
        {"model": HUB, "slo": {"timeToFirstToken": "0s"}},
        "timeToFirstToken must be between 10ms and 1h",
    ),
    "hours per output token": (
        {"model": HUB, "slo": {"timePerOutputToken": "1h"}},
        "timePerOutputToken must be between 1ms and 1m",
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
    "unknown scheme": ({"model": {"source": "ftp://host/model"}}, "spec.model.source"),
    "bucket in capitals": ({"model": {"source": "s3://Bucket/model"}}, "spec.model.source"),
    "digest cut short": ({"model": {"source": "oci://host/repo@sha256:abc"}}, "spec.model.source"),
    "adapter in a claim": (
        {"model": HUB, "adapters": {"items": [{"name": "a", "source": "pvc://claim/a"}]}},
        "spec.adapters.items",
    ),
    "rank that vLLM does not take": ({"model": HUB, "adapters": {"maxRank": 24}}, "spec.adapters.maxRank"),
    "unknown task": ({"model": {**HUB, "task": "Translate"}}, "spec.model.task"),
    "share above all": ({"model": HUB, "engine": {"gpuMemoryUtilization": "1.5"}}, "spec.engine.gpuMemoryUtilization"),
    "percentage above all": ({"model": HUB, "rollout": {"maxSurge": "120%"}}, "spec.rollout.maxSurge"),
    "base in words": ({"model": HUB, "placement": {"onDemandBase": "half"}}, "spec.placement.onDemandBase"),
    "sleep at a level that is none": ({"model": HUB, "scaling": {"sleep": {"level": 3}}}, "spec.scaling.sleep.level"),
    "cron of six fields": (
        {"model": HUB, "scaling": {"schedules": [{"cron": "0 0 8 * * *", "duration": "1h", "minReplicas": 1}]}},
        "spec.scaling.schedules",
    ),
    "served name with a space": ({"model": {**HUB, "name": "my model"}}, "spec.model.name"),
    "unknown vendor": ({"model": HUB, "accelerator": {"vendor": "Abacus"}}, "spec.accelerator.vendor"),
    "no tensor parallel rank": ({"model": HUB, "parallelism": {"tensor": 0}}, "spec.parallelism.tensor"),
    "quantity in words": ({"model": HUB, "resources": {"memory": "much"}}, "spec.resources.memory"),
    "duration without a unit": ({"model": HUB, "scaling": {"idleAfter": "600"}}, "spec.scaling.idleAfter"),
    "fallback with a space": ({"model": HUB, "fallback": ["other model"]}, "spec.fallback"),
    "five fallbacks": ({"model": HUB, "fallback": ["a", "b", "c", "d", "e"]}, "spec.fallback"),
    "route for no prompt": ({"model": HUB, "routes": [{"model": "a", "maxPromptTokens": 0}]}, "spec.routes"),
    "answers kept on a whim": (
        {"model": HUB, "requests": {"cache": {"when": "Sometimes"}}},
        "spec.requests.cache.when",
    ),
    "hold in words": ({"model": HUB, "queue": {"holdFor": "Forever"}}, "spec.queue.holdFor"),
    "negative replicas": ({"model": HUB, "replicas": -1}, "spec.replicas"),
    "no pool": ({"model": HUB, "placement": {"pools": []}}, "spec.placement.pools"),
    "forecast from a day": ({"model": HUB, "scaling": {"forecast": {"days": 1}}}, "spec.scaling.forecast.days"),
    "budget in words": ({"model": HUB, "scaling": {"budget": {"perHour": "much"}}}, "spec.scaling.budget.perHour"),
    "number as text": ({"model": HUB, "scaling": {"maxReplicas": "many"}}, "spec.scaling.maxReplicas"),
}
