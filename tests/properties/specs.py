"""Strategies for valid specs, as users write them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from lull.api.llmdeployment import InvalidSpec
from tests.manifests import manifest, stored

Spec = dict[str, Any]

_WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12)
_NAME = st.builds(lambda first, rest: f"{first}{rest}", st.sampled_from("abcxyz"), _WORD)
_LABELS = st.dictionaries(_WORD, _WORD, max_size=3)
_SIZE = st.builds("{}Gi".format, st.integers(1, 4000))
_SHARE = st.one_of(st.integers(0, 9), st.builds("{}%".format, st.integers(0, 100)))


def _some(required: Spec, optional: Spec) -> st.SearchStrategy[Spec]:
    return st.fixed_dictionaries(required, optional=optional)


FETCHED = st.one_of(
    st.builds("hf://{}/{}".format, _WORD, _WORD),
    st.builds("hf://{}/{}@{}".format, _WORD, _WORD, _WORD),
    st.builds("s3://b{}b/{}".format, _WORD, _WORD),
    st.builds("gs://b{}b/{}/{}".format, _WORD, _WORD, _WORD),
    st.builds("oci://{}:5000/{}:{}".format, _WORD, _WORD, _WORD),
)
PRESENT = st.one_of(st.builds("pvc://{}/{}".format, _WORD, _WORD), st.builds("file:///{}".format, _WORD))
CACHES = st.one_of(
    _some({}, {"type": st.just("Ephemeral"), "size": _SIZE}),
    _some(
        {"type": st.just("PersistentVolumeClaim"), "size": _SIZE},
        {"storageClassName": _NAME, "accessMode": st.sampled_from(["ReadWriteMany", "ReadWriteOnce"])},
    ),
    st.fixed_dictionaries({"type": st.just("PersistentVolumeClaim"), "claimName": _NAME}),
    st.fixed_dictionaries({"type": st.just("HostPath"), "path": st.builds("/{}".format, _WORD)}),
)
_MODEL = {
    "name": _NAME,
    "aliases": st.lists(_NAME, max_size=4, unique=True),
    "task": st.sampled_from(["Generate", "Generate", "Generate", "Embed", "Rerank", "Classify"]),
    "trustRemoteCode": st.booleans(),
}
MODELS = st.one_of(
    _some({"source": FETCHED}, {**_MODEL, "secretName": _NAME, "cache": CACHES}),
    _some({"source": PRESENT}, _MODEL),
)
SPECULATIVE = st.one_of(
    _some({"method": st.sampled_from(["Ngram", "Suffix", "Mtp"])}, {"tokens": st.integers(1, 32)}),
    _some({"method": st.sampled_from(["Draft", "Eagle", "Eagle3"]), "model": FETCHED}, {"tokens": st.integers(1, 32)}),
)
VARIABLES = st.one_of(
    st.fixed_dictionaries({"name": st.builds("X_{}".format, _WORD), "value": st.text("ab =$()\n", max_size=9)}),
    st.fixed_dictionaries(
        {
            "name": st.builds("X_{}".format, _WORD),
            "valueFrom": st.fixed_dictionaries({"secretKeyRef": st.fixed_dictionaries({"name": _NAME, "key": _NAME})}),
        }
    ),
)
ENGINES = _some(
    {},
    {
        "image": _NAME,
        "dtype": st.sampled_from(["Auto", "Bfloat16", "Float16", "Float32"]),
        "quantization": st.sampled_from(["Auto", "awq", "fp8"]),
        "kvCacheDtype": st.sampled_from(["Auto", "Fp8", "Fp8E5m2", "Nvfp4"]),
        "loadFormat": st.sampled_from(["Auto", "Safetensors", "NpCache", "ShardedState"]),
        "maxModelLen": st.integers(1, 10_000_000),
        "maxNumSeqs": st.integers(1, 65536),
        "maxNumBatchedTokens": st.integers(65536, 10_000_000),
        "gpuMemoryUtilization": st.sampled_from(["0.5", "0.92", "1.0"]),
        "prefixCaching": st.booleans(),
        "speculative": SPECULATIVE,
        "kvOffload": st.fixed_dictionaries({"cpu": _SIZE}),
        "enforceEager": st.booleans(),
        "compileCache": st.sampled_from(["Ephemeral", "ModelCache"]),
        "attentionBackend": st.sampled_from(["FLASH_ATTN", "FLASHINFER"]),
        "structuredOutputsBackend": st.sampled_from(["Auto", "Xgrammar", "Guidance", "Outlines"]),
        "extraArgs": st.lists(st.sampled_from(["--seed=1", "--block-size=16", "--disable-log-stats"]), max_size=3),
        "env": st.lists(VARIABLES, max_size=3, unique_by=lambda variable: variable["name"]),
    },
)
TOLERATIONS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"key": _WORD, "operator": st.just("Exists")}),
        _some({"key": _WORD, "value": _WORD}, {"effect": st.sampled_from(["NoSchedule", "NoExecute"])}),
    ),
    max_size=2,
)
POOLS = _some(
    {"name": st.text("abcdefgh", min_size=1, max_size=20)},
    {
        "capacityType": st.sampled_from(["Any", "Spot", "OnDemand"]),
        "product": _NAME,
        "nodeSelector": _LABELS,
        "tolerations": TOLERATIONS,
    },
)
ACCELERATORS = _some(
    {},
    {
        "vendor": st.sampled_from(["Nvidia", "Amd", "Tpu", "Neuron"]),
        "product": _NAME,
        "resourceName": st.just("nvidia.com/mig-1g.10gb"),
        "nodesPerReplica": st.sampled_from([1, 1, 2]),
    },
)
ADAPTERS = _some(
    {},
    {
        "maxLoaded": st.integers(1, 16),
        "maxRank": st.sampled_from([8, 16, 64]),
        "cpuSlots": st.integers(16, 4096),
        "secretName": _NAME,
    },
)
ITEMS = st.lists(
    st.fixed_dictionaries({"name": st.builds("adapter-{}".format, _WORD), "source": FETCHED}),
    max_size=4,
    unique_by=lambda item: item["name"],
)
POD_TEMPLATES = _some(
    {},
    {
        "metadata": _some({}, {"labels": _LABELS, "annotations": _LABELS}),
        "priorityClassName": _NAME,
        "runtimeClassName": _NAME,
        "schedulerName": _NAME,
        "serviceAccountName": _NAME,
        "imagePullSecrets": st.lists(_NAME, max_size=2, unique=True),
        "nodeSelector": _LABELS,
        "tolerations": TOLERATIONS,
        "topologySpreadConstraints": st.lists(
            _some(
                {"maxSkew": st.integers(1, 9), "topologyKey": _WORD},
                {"whenUnsatisfiable": st.sampled_from(["DoNotSchedule", "ScheduleAnyway"])},
            ),
            max_size=2,
        ),
        "securityContext": _some(
            {},
            {
                "runAsUser": st.integers(1, 9999),
                "runAsGroup": st.integers(0, 9999),
                "fsGroup": st.integers(0, 9999),
                "supplementalGroups": st.lists(st.integers(0, 9999), max_size=2),
            },
        ),
    },
)


def _is_valid(spec: Spec) -> bool:
    try:
        stored(manifest(**spec))
    except InvalidSpec:
        return False
    cache = spec["model"].get("cache", {})
    # Fields of one spec that exclude each other only once it is rendered.
    return bool(
        spec.get("accelerator", {}).get("nodesPerReplica", 1) == 1 or cache.get("accessMode") != "ReadWriteOnce"
    )


PODS = _some(
    {"model": MODELS},
    {
        "engine": ENGINES,
        "parallelism": _some(
            {},
            {
                "tensor": st.sampled_from([2, 4, 8]),
                "pipeline": st.integers(1, 2),
                "data": st.sampled_from([1, 1, 2]),
                "expert": st.booleans(),
            },
        ),
        "accelerator": ACCELERATORS,
        "resources": _some({}, {"cpu": st.just("4"), "memory": st.just("5Ti"), "sharedMemory": st.just("8Gi")}),
        "placement": st.fixed_dictionaries({"pools": st.lists(POOLS, min_size=1, max_size=1)}),
        "adapters": ADAPTERS,
        "podTemplate": POD_TEMPLATES,
        "rollout": _some({}, {"drain": st.builds("{}s".format, st.integers(0, 3600))}),
    },
).filter(_is_valid)
"""The part of a spec that pods depend on."""

_BEHAVIORS = _some(
    {},
    {
        "stabilizationWindowSeconds": st.integers(0, 3600),
        "selectPolicy": st.sampled_from(["Max", "Min", "Disabled"]),
        "policies": st.lists(
            st.fixed_dictionaries(
                {
                    "type": st.sampled_from(["Pods", "Percent"]),
                    "value": st.integers(1, 1000),
                    "periodSeconds": st.integers(1, 1800),
                }
            ),
            max_size=2,
        ),
    },
)
MINDERS = _some(
    {},
    {
        "scaling": _some(
            {},
            {
                "minReplicas": st.integers(0, 8),
                "maxReplicas": st.integers(8, 1000),
                "target": _some({}, {"queueLength": st.integers(1, 99), "inFlight": st.integers(1, 999)}),
                "idleAfter": st.builds("{}m".format, st.integers(0, 600)),
                "schedules": st.lists(
                    _some(
                        {
                            "cron": st.sampled_from(["0 8 * * 1-5", "*/5 * * * *"]),
                            "duration": st.sampled_from(["1m", "10h"]),
                            "minReplicas": st.integers(1, 8),
                        },
                        {"timezone": st.sampled_from(["UTC", "Europe/Berlin"])},
                    ),
                    max_size=2,
                ),
                "behavior": _some({}, {"scaleUp": _BEHAVIORS, "scaleDown": _BEHAVIORS}),
            },
        ),
        "replicas": st.integers(0, 1000),
        "queue": _some({}, {"maxHeld": st.integers(0, 100_000), "holdFor": st.sampled_from(["Auto", "90s"])}),
        "requests": _some(
            {},
            {
                "timeouts": _some({}, dict.fromkeys(("firstByte", "betweenChunks", "total"), st.just("90s"))),
                "continueStreams": st.booleans(),
                "cache": _some({}, {"ttl": st.just("1h"), "when": st.sampled_from(["Deterministic", "OnRequest"])}),
            },
        ),
        "fallback": st.lists(st.builds("other-{}".format, _WORD), max_size=4, unique=True),
        "routes": st.lists(st.builds("other-{}".format, _WORD), max_size=4).map(
            lambda models: [{"model": model, "maxPromptTokens": 10**at} for at, model in enumerate(models)]
        ),
    },
)
"""The part of a spec that neither pods nor workloads depend on."""

ROLLOUTS = _some(
    {"maxSurge": _SHARE, "maxUnavailable": _SHARE}, {"whenFull": st.sampled_from(["InPlace", "Wait"])}
).filter(lambda rollout: {rollout["maxSurge"], rollout["maxUnavailable"]} - {0, "0%"})
"""How pods are replaced, which restarts none."""

NAMES = st.builds(lambda first, rest: f"{first}{rest}", st.sampled_from("az"), st.text("abc019-", max_size=38)).map(
    lambda name: f"{name}z"
)
