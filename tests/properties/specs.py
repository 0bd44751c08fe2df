"""Strategies for valid specs, as users write them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12)
_NAME = st.builds(lambda first, rest: f"{first}{rest}", st.sampled_from("abcxyz"), _WORD)


def _some(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


SOURCES = st.one_of(
    st.builds("hf://{}/{}".format, _WORD, _WORD),
    st.builds("hf://{}/{}@{}".format, _WORD, _WORD, _WORD),
    st.builds("pvc://{}/{}".format, _WORD, _WORD),
    st.builds("file:///{}".format, _WORD),
)
MODELS = _some({"source": SOURCES}, {"name": _NAME, "aliases": st.lists(_NAME, max_size=4, unique=True)}).filter(
    lambda model: model.get("name") not in model.get("aliases", [])
)
ENGINES = _some(
    {},
    {
        "image": _NAME,
        "maxModelLen": st.integers(1, 10_000_000),
        "maxNumSeqs": st.integers(1, 65536),
        "enforceEager": st.booleans(),
        "extraArgs": st.lists(st.sampled_from(["--seed=1", "--dtype=half", "--quantization=fp8"]), max_size=3),
        "env": st.lists(
            st.fixed_dictionaries({"name": st.builds("X_{}".format, _WORD), "value": st.text("ab =\n", max_size=9)}),
            max_size=3,
            unique_by=lambda variable: variable["name"],
        ),
    },
)
POOLS = _some(
    {"name": st.text("abcdefgh", min_size=1, max_size=20)},
    {
        "capacityType": st.sampled_from(["Any", "Spot", "OnDemand"]),
        "nodeSelector": st.dictionaries(_WORD, _WORD, max_size=3),
        "tolerations": st.lists(st.fixed_dictionaries({"key": _WORD, "operator": st.just("Exists")}), max_size=2),
    },
)
PODS = _some(
    {"model": MODELS},
    {
        "engine": ENGINES,
        "parallelism": _some({}, {"tensor": st.integers(1, 64)}),
        "accelerator": _some({}, {"product": _NAME, "resourceName": st.just("nvidia.com/mig-1g.10gb")}),
        "resources": _some({}, {"cpu": st.just("4"), "memory": st.just("40Gi"), "sharedMemory": st.just("8Gi")}),
        "placement": st.fixed_dictionaries({"pools": st.lists(POOLS, min_size=1, max_size=1)}),
        "rollout": _some({}, {"drain": st.builds("{}s".format, st.integers(0, 3600))}),
    },
)
"""The part of a spec that pods depend on."""

MINDERS = _some(
    {},
    {
        "scaling": _some(
            {},
            {
                "minReplicas": st.integers(0, 8),
                "maxReplicas": st.integers(8, 1000),
                "idleAfter": st.builds("{}m".format, st.integers(0, 600)),
            },
        ),
        "replicas": st.integers(0, 1000),
        "queue": _some({}, {"maxHeld": st.integers(0, 100_000), "holdFor": st.sampled_from(["Auto", "90s"])}),
    },
)
"""The part of a spec that they do not depend on."""

NAMES = st.builds(lambda first, rest: f"{first}{rest}", st.sampled_from("az"), st.text("abc019-", max_size=38)).map(
    lambda name: f"{name}z"
)
