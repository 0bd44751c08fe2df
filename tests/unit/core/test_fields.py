"""Every field does something: it changes what is rendered, decided or served, or it is refused.

The fields are those of the CRD. Each is given other values, in company where it needs some, and something that anybody
would notice must differ. The digest of the spec that pods bear is left out of sight, as it changes by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from lull.api import names
from lull.api.llmdeployment import InvalidSpec, LLMDeployment, Manifest
from lull.api.schema import build_crd
from lull.core.adapters import list_adapters
from lull.core.admission import build_limits
from lull.core.answers import build_terms
from lull.core.budget import find_cap
from lull.core.catalogue import build_catalogue
from lull.core.continuation import may_continue
from lull.core.fallback import Asked, State, choose
from lull.core.forecast import STEP, Series, learn_forecast
from lull.core.history import find_span
from lull.core.manifests import build, find_revision
from lull.core.observed import Observed
from lull.core.placement import split
from lull.core.rollout import choose_strategies
from lull.core.scaling import build_policy
from lull.core.signals import Demand
from lull.core.sleeping import Quiet, Sleeper, choose_rest, find_level, plan_step
from lull.core.sleeping import State as EngineState
from tests.manifests import SETTINGS, manifest, stored

Spec = dict[str, Any]

_CLAIM: Final = {"type": "PersistentVolumeClaim"}
_OTHERS: Final = {"name": "other", "capacityType": "OnDemand"}
_ITEM: Final = {"name": "a", "source": "hf://org/a"}
_SPREAD: Final = {"maxSkew": 1, "topologyKey": "zone"}
_SCHEDULE: Final = {"cron": "0 8 * * *", "duration": "10h", "minReplicas": 2}
_PACE: Final = {"type": "Pods", "value": 2, "periodSeconds": 60}

COMPANY: Final[dict[str, Spec]] = {
    "model.secretName": {"model": {"source": "s3://bucket/name"}},
    "model.cache.size": {"model": {"cache": {**_CLAIM, "size": "10Gi"}}},
    "model.cache.storageClassName": {"model": {"cache": {**_CLAIM, "size": "10Gi"}}},
    "model.cache.accessMode": {"model": {"cache": {**_CLAIM, "size": "10Gi"}}},
    "model.cache.claimName": {"model": {"cache": {**_CLAIM, "claimName": "first"}}},
    "model.cache.path": {"model": {"cache": {"type": "HostPath", "path": "/first"}}},
    "engine.speculative.method": {"engine": {"speculative": {"method": "Ngram"}}},
    "engine.speculative.model": {"engine": {"speculative": {"method": "Draft", "model": "hf://org/first"}}},
    "engine.speculative.tokens": {"engine": {"speculative": {"method": "Ngram"}}},
    "engine.compileCache": {"model": {"cache": {**_CLAIM, "size": "10Gi"}}},
    "engine.env[].name": {"engine": {"env": [{"name": "A", "value": "1"}]}},
    "engine.env[].value": {"engine": {"env": [{"name": "A", "value": "1"}]}},
    "engine.env[].valueFrom": {
        "engine": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}
    },
    "parallelism.expert": {"parallelism": {"tensor": 2}},
    "accelerator.nodesPerReplica": {"parallelism": {"tensor": 2}},
    "placement.onDemandBase": {"placement": {"pools": [{"name": "spot", "capacityType": "Spot"}, _OTHERS]}},
    "placement.pools[].maxReplicas": {"placement": {"pools": [{"name": "default"}, _OTHERS]}},
    "placement.pools[].tolerations[]": {
        "placement": {
            "pools": [{"name": "default", "tolerations": [{"key": "a", "value": "b", "effect": "NoExecute"}]}]
        }
    },
    "podTemplate.tolerations[]": {"podTemplate": {"tolerations": [{"key": "a", "value": "b", "effect": "NoExecute"}]}},
    "podTemplate.topologySpreadConstraints[]": {"podTemplate": {"topologySpreadConstraints": [_SPREAD]}},
    "scaling.schedules[]": {"scaling": {"schedules": [_SCHEDULE]}},
    "scaling.sleep": {"scaling": {"sleep": {}}},
    "scaling.forecast": {"scaling": {"forecast": {}}},
    "scaling.budget.perHour": {"scaling": {"budget": {"perHour": "10"}}},
    "scaling.budget.perMonth": {"scaling": {"budget": {"perMonth": "100"}}},
    "scaling.behavior.scaleUp.policies[]": {"scaling": {"behavior": {"scaleUp": {"policies": [_PACE]}}}},
    "scaling.behavior.scaleUp.selectPolicy": {"scaling": {"behavior": {"scaleUp": {"policies": [_PACE]}}}},
    "scaling.behavior.scaleDown.policies[]": {"scaling": {"behavior": {"scaleDown": {"policies": [_PACE]}}}},
    "scaling.behavior.scaleDown.selectPolicy": {"scaling": {"behavior": {"scaleDown": {"policies": [_PACE]}}}},
    "adapters": {"adapters": {"items": [_ITEM]}},
    "requests.cache": {"requests": {"cache": {}}},
    "routes[]": {"routes": [{"model": "small", "maxPromptTokens": 100}]},
    "rollout.maxUnavailable": {"rollout": {"maxSurge": 2}},
}
"""What a field needs beside it before it can be said, by the field or by what it is part of."""

VALUES: Final[dict[str, tuple[Any, ...]]] = {
    "model.source": (
        "hf://org/other",
        "s3://bucket/a",
        "gs://bucket/a",
        "oci://host/a:v1",
        "pvc://claim/a",
        "file:///a",
    ),
    "model.name": ("other",),
    "model.aliases": (["other"],),
    "model.secretName": ("opener",),
    "model.cache.size": ("20Gi",),
    "model.cache.storageClassName": ("fast",),
    "model.cache.claimName": ("second",),
    "model.cache.path": ("/second",),
    "engine.image": ("other:1",),
    "engine.quantization": ("awq",),
    "engine.gpuMemoryUtilization": ("0.90",),
    "engine.speculative.model": ("hf://org/second",),
    "engine.kvOffload.cpu": ("32Gi",),
    "engine.attentionBackend": ("FLASHINFER",),
    "engine.extraArgs": (["--seed=1"], ["--port=1"]),
    "engine.env[].name": ("B", "HOME"),
    "engine.env[].value": ("2",),
    "engine.env[].valueFrom.secretKeyRef.name": ("other",),
    "engine.env[].valueFrom.secretKeyRef.key": ("other",),
    "accelerator.product": ("NVIDIA-L4",),
    "accelerator.resourceName": ("nvidia.com/mig-1g.10gb",),
    "resources.cpu": ("4",),
    "resources.memory": ("40Gi",),
    "resources.sharedMemory": ("4Gi",),
    "placement.onDemandBase": (2, "50%"),
    "placement.pools[].name": ("second",),
    "placement.pools[].product": ("NVIDIA-L4",),
    "placement.pools[].nodeSelector": ({"a": "b"},),
    "placement.pools[].tolerations[].key": ("c",),
    "placement.pools[].tolerations[].value": ("c",),
    "scaling.idleAfter": ("1h",),
    "scaling.sleep.after": ("5m",),
    "scaling.forecast.timezone": ("Europe/Berlin", "Mars/Base"),
    "scaling.budget.perHour": ("20",),
    "scaling.budget.perMonth": ("200",),
    "slo.timeToFirstToken": ("1s",),
    "slo.timePerOutputToken": ("50ms",),
    "scaling.schedules[].cron": ("0 9 * * *", "99 9 * * *"),
    "scaling.schedules[].timezone": ("Europe/Berlin", "Mars/Base"),
    "scaling.schedules[].duration": ("1h",),
    "adapters.secretName": ("opener",),
    "adapters.items[].name": ("b",),
    "adapters.items[].source": ("hf://org/b",),
    "queue.maxHeldBytes": ("1Mi",),
    "queue.holdFor": ("90s",),
    "requests.timeouts.firstByte": ("90s",),
    "requests.timeouts.betweenChunks": ("90s",),
    "requests.timeouts.total": ("90s",),
    "requests.cache.ttl": ("90s",),
    "requests.cache.maxBytes": ("1Mi",),
    "fallback": (["small"],),
    "routes[].model": ("large",),
    "rollout.maxSurge": (2, "50%"),
    "rollout.maxUnavailable": (1, "50%"),
    "rollout.drain": ("5s",),
    "podTemplate.metadata.labels": ({"team": "search"},),
    "podTemplate.metadata.annotations": ({"team": "search"},),
    "podTemplate.priorityClassName": ("high",),
    "podTemplate.runtimeClassName": ("nvidia",),
    "podTemplate.schedulerName": ("other",),
    "podTemplate.serviceAccountName": ("reader",),
    "podTemplate.imagePullSecrets": (["registry"],),
    "podTemplate.nodeSelector": ({"a": "b"},),
    "podTemplate.tolerations[].key": ("c",),
    "podTemplate.tolerations[].value": ("c",),
    "podTemplate.topologySpreadConstraints[].topologyKey": ("kubernetes.io/hostname",),
    "podTemplate.securityContext.supplementalGroups": ([44],),
}
"""Other values of fields whose schema alone does not tell one."""

TOGETHER: Final[dict[str, Spec]] = {
    "model.cache.type=HostPath": {"model": {"cache": {"path": "/cache"}}},
    "model.cache.type=PersistentVolumeClaim": {"model": {"cache": {"size": "10Gi"}}},
    "engine.speculative.method=Draft": {"engine": {"speculative": {"model": "hf://org/small"}}},
    "engine.speculative.method=Eagle": {"engine": {"speculative": {"model": "hf://org/small"}}},
    "engine.speculative.method=Eagle3": {"engine": {"speculative": {"model": "hf://org/small"}}},
}
"""What must be said at the same time as one value of a field."""

REASONS: Final[dict[str, str]] = {
    "model.cache.accessMode=ReadWriteMany": "is what a claim gets where nothing is said",
}
"""Values that change nothing, and why that is right."""


@dataclass(frozen=True, slots=True)
class Leaf:
    path: str
    schema: Manifest


def _walk(schema: Manifest, path: str) -> Iterator[Leaf]:
    for name, property_ in schema["properties"].items():
        where = f"{path}.{name}" if path else name
        if property_.get("properties"):
            yield from _walk(property_, where)
        elif (property_.get("items") or {}).get("properties"):
            yield from _walk(property_["items"], f"{where}[]")
        else:
            yield Leaf(where, property_)


def _read_spec_schema() -> Manifest:
    (version,) = build_crd()["spec"]["versions"]
    schema: Manifest = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


LEAVES: Final = tuple(_walk(_read_spec_schema(), ""))


def _list_values(leaf: Leaf) -> tuple[Any, ...]:
    schema = leaf.schema
    if leaf.path in VALUES and "enum" not in schema:
        return VALUES[leaf.path]
    default = schema.get("default")
    match schema:
        case {"enum": members}:
            return tuple(member for member in members if member != default)
        case {"type": "boolean"}:
            return (not default,)
        case {"type": "integer", "minimum": least, "maximum": most}:
            return (next(value for value in (3, 7, least, most) if least <= value <= most and value != default),)
    raise AssertionError(f"{leaf.path}: VALUES says no other value for it")


def _cases() -> Iterator[Any]:
    for leaf in LEAVES:
        # What its company says already is no other value.
        company = _get(_accompany(leaf.path), leaf.path)
        for value in (value for value in _list_values(leaf) if value != company):
            yield pytest.param(leaf, value, id=f"{leaf.path}={value if isinstance(value, str) else json.dumps(value)}")


def _accompany(path: str) -> Spec:
    """The spec that a field is changed in."""
    company = next((spec for prefix, spec in COMPANY.items() if path == prefix), None) or next(
        (spec for prefix, spec in COMPANY.items() if path.startswith((f"{prefix}.", f"{prefix}["))), {}
    )
    return _merge({"model": {"source": "hf://org/name"}, "placement": {"pools": [{"name": "default"}]}}, company)


def _merge(one: Spec, other: Spec) -> Spec:
    merged = {**one, **other}
    return {
        key: _merge(one[key], value) if isinstance(value, dict) and isinstance(one.get(key), dict) else value
        for key, value in merged.items()
    }


def _get(spec: Any, path: str) -> Any:
    """The value at a path, or None; of lists it is that of the first item."""
    name, _, rest = path.partition(".")
    found = (spec.get(name.removesuffix("[]"), [{}])[0]) if name.endswith("[]") else spec.get(name)
    return _get(found or {}, rest) if rest else found


def _set(spec: Any, path: str, value: Any) -> Any:
    """The spec with another value at a path; in lists it is the first item that changes."""
    name, _, rest = path.partition(".")
    if name.endswith("[]"):
        first, *others = spec.get(name.removesuffix("[]"), [{}])
        return {**spec, name.removesuffix("[]"): [_set(first, rest, value), *others]}
    return {**spec, name: _set(spec.get(name, {}), rest, value) if rest else value}


def _observe(spec: Spec) -> Any:
    """Everything that anybody notices of a spec."""
    try:
        deployment = stored(manifest(**spec))
        children = build(deployment, SETTINGS)
    except InvalidSpec as error:
        return str(error)
    revisions = {find_revision(deployment, pool) for pool in deployment.spec.placement.pools}
    catalogue = build_catalogue([deployment])
    return (
        [_without(json.dumps(child), revisions) for child in children],
        _look_at_a_full_cluster(deployment, children),
        build_policy(deployment.spec),
        _watch_it_idle(deployment),
        find_cap(deployment.spec.scaling.budget, price=1.0, spent=0.0, wall=0.0),
        _foretell(deployment),
        [split(replicas, deployment.spec.placement, {}) for replicas in range(12)],
        dict(catalogue.names),
        build_limits(deployment),
        build_terms(deployment),
        may_continue(deployment, "/v1/completions", {"stream": True, "prompt": "a"}),
        _look_for_stand_ins(deployment),
        list_adapters(deployment),
    )


def _watch_it_idle(deployment: LLMDeployment) -> list[Any]:
    """When its replicas are to sleep, and what one that is ready is told then."""
    nothing = Demand(held=0, in_flight=0, waiting=0, last_request_at=None, complete=True)
    quiet = Quiet(last_request_at=None, since=0.0, ready_at=None)
    sleeper = Sleeper("uid", "pod", "http://engine", mark=None)
    level = find_level(deployment.spec)
    return [
        (rest, plan_step(sleeper, EngineState(is_asleep=False, is_busy=False), rest, level=level, wall=at))
        for at in (60.0, 200.0, 400.0)
        for rest in (choose_rest(deployment.spec, nothing, quiet, now=at, wall=at),)
    ]


def _foretell(deployment: LLMDeployment) -> Any:
    """What is expected after clocks were changed in Europe, of days that are alike by the clock there."""
    spec = deployment.spec.scaling.forecast
    if spec is None:
        return None
    changed = 1_774_746_000.0
    begin, wall = changed - 7 * 86400, changed + 5 * 3600
    at = (begin + number * STEP for number in range(round((wall - begin) / STEP)))
    values = tuple(4.0 * (8 <= (one + (7200 if one >= changed else 3600)) // 3600 % 24 < 18) for one in at)
    span = find_span(wall, days=spec.days, step=STEP)
    return span, learn_forecast(Series(begin, STEP, values), wall=wall, ahead=3600.0, timezone=spec.timezone)


def _look_for_stand_ins(deployment: LLMDeployment) -> list[Any]:
    """Where requests go while this model sleeps and others do not."""
    others = [stored(manifest(name=name)) for name in ("small", "large")]
    catalogue = build_catalogue([deployment, *others])
    state = State(is_cold=lambda key: key == deployment.key, has_room=lambda *_: True)
    found = (
        choose(Asked("it", deployment, prompt_tokens, allows=lambda _: True), catalogue, state).stand_in
        for prompt_tokens in (5, 50, 500)
    )
    return [None if stand_in is None else stand_in.key for stand_in in found]


def _look_at_a_full_cluster(deployment: LLMDeployment, children: tuple[Manifest, ...]) -> dict[str, Any]:
    """How pods are replaced where a successor finds no accelerators."""
    pool = deployment.spec.placement.pools[0]
    waiting = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "Insufficient nvidia.com/gpu",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    pods = [
        {
            "metadata": {"labels": {names.LABEL_POOL: pool.name, names.LABEL_REVISION: revision}},
            "status": {"conditions": conditions},
        }
        for revision, conditions in (("earlier", []), (find_revision(deployment, pool), [waiting]))
    ]
    workloads = tuple(child for child in children if child["kind"] in {"Deployment", "LeaderWorkerSet"})
    return dict(choose_strategies(deployment, Observed(workloads=workloads, pods=tuple(pods)), now=2e9))


def _without(text: str, revisions: set[str]) -> str:
    for revision in revisions:
        text = text.replace(revision, "")
    return text


@pytest.mark.parametrize(("leaf", "value"), tuple(_cases()))
def test_every_field_does_something(leaf: Leaf, value: Any) -> None:
    which = f"{leaf.path}={value}"
    before = _accompany(leaf.path)
    after = _merge(_set(before, leaf.path, value), TOGETHER.get(which, {}))

    changed = _observe(before) != _observe(after)

    assert changed is (which not in REASONS)


def test_every_table_speaks_of_fields_that_there_are() -> None:
    paths = {leaf.path for leaf in LEAVES}
    keys = {*COMPANY, *VALUES, *(key.partition("=")[0] for key in (*TOGETHER, *REASONS))}

    assert {
        key for key in keys if not any(path == key or path.startswith((f"{key}.", f"{key}[")) for path in paths)
    } == set()


def test_every_excuse_is_needed() -> None:
    assert REASONS.keys() <= {f"{leaf.path}={value}" for leaf in LEAVES for value in _list_values(leaf)}


def test_walks_the_whole_schema() -> None:
    assert len(LEAVES) > 100
    assert {"model.source", "engine.env[].valueFrom.secretKeyRef.key", "podTemplate.securityContext.runAsUser"} <= {
        leaf.path for leaf in LEAVES
    }
