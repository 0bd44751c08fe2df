"""Every value does something, and nothing else is accepted."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from tests.chart.conftest import CHART
from tests.chart.readme import README, VALUES, comments, leaves, rewritten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chart.conftest import Chart, Manifest, Values

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())

# For every value of values.yaml another one; where it needs company to count, the company too.
_POD: dict[str, Any] = {
    "resources": {"requests": {"cpu": 2}},
    "podAnnotations": {"example.com/a": "b"},
    "podLabels": {"example.com/a": "b"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [],
    "priorityClassName": "system-cluster-critical",
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
}
OTHERS: dict[str, Any] = {
    "fullnameOverride": "other",
    "commonLabels": {"team": "a"},
    "commonAnnotations": {"example.com/a": "b"},
    "image.registry": "registry.example.com",
    "image.repository": "other/lull",
    "image.tag": "v9",
    "image.digest": "sha256:" + "0" * 64,
    "image.pullPolicy": "Always",
    "image.pullSecrets": [{"name": "pull"}],
    "crds.install": False,
    "crds.keep": False,
    "rbac.scope": "namespaced",
    "rbac.watchNamespace": "models",
    "rbac.aggregate": False,
    "logLevel": "debug",
    "hub.endpoint": "http://mirror:8080",
    "s3.endpoint": "http://minio:9000",
    "gs.endpoint": "http://gcs:4443",
    "oci.plainHttp": ["registry:5000", "localhost"],
    "passLabels": ["team", "example.com/cost-centre"],
    "nodesAutoscaled": True,
    "prometheus.url": "http://prometheus.monitoring:9090",
    "prometheus.credentialsSecret": "prometheus",
    "operator.replicas": 1,
    "operator.concurrentReconciles": 2,
    "operator.acceleratorPrices": {"NVIDIA-L4": 0.81, "*": 4},
    "operator.listPrices": False,
    "operator.currency": "EUR",
    "operator.tickSeconds": 0.5,
    "operator.staleSeconds": 20,
    "operator.engineTickSeconds": 2.5,
    "operator.resyncSeconds": 60,
    "operator.leaseSeconds": 5,
    "operator.podDisruptionBudget.maxUnavailable": 0,
    **{f"operator.{name}": value for name, value in _POD.items()},
    "gateway.replicas": 3,
    "gateway.autoscaling.enabled": True,
    "gateway.autoscaling.minReplicas": 3,
    "gateway.autoscaling.maxReplicas": 20,
    "gateway.autoscaling.cpuUtilization": 80,
    "gateway.autoscaling.behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
    "gateway.autoscaling.inFlight": 200,
    "gateway.workers": 2,
    "gateway.maxConnections": 1000,
    "gateway.headSeconds": 5,
    "gateway.url": "https://llm.example.com/v1",
    "gateway.service.type": "LoadBalancer",
    "gateway.service.port": 8080,
    "gateway.service.annotations": {"example.com/a": "b"},
    "gateway.maxBodyBytes": 100_000_000,
    "gateway.maxPendingBytes": 1 << 30,
    "gateway.bodySeconds": 10,
    "gateway.syncSeconds": 5,
    "gateway.lameDuckSeconds": 1,
    "gateway.connectSeconds": 1,
    "gateway.firstByteSeconds": 60,
    "gateway.idleSeconds": 60,
    "gateway.maxTries": 2,
    "gateway.heartbeatSeconds": 5,
    "gateway.accessLog": "errors",
    "gateway.tracing.endpoint": "http://collector:4318",
    "gateway.tracing.sampleRatio": 0.1,
    "gateway.drainSeconds": 10,
    "gateway.keys.required": True,
    "gateway.keys.secret": "keys",
    "gateway.keys.valkey.url": "valkeys://valkey.example.com:6379/1",
    "gateway.keys.valkey.passwordSecret.name": "valkey",
    "gateway.keys.valkey.passwordSecret.key": "valkey-password",
    "gateway.podDisruptionBudget.maxUnavailable": "50%",
    **{f"gateway.{name}": value for name, value in _POD.items()},
    "prePull.images": ["vllm/vllm-openai:v0.33.0"],
    **{
        f"prePull.{name}": value
        for name, value in _POD.items()
        if name not in {"topologySpreadConstraints", "extraEnv"}
    },
    "networkPolicy.enabled": False,
    "networkPolicy.clients": [{"namespaceSelector": {}}],
    "monitoring.podMonitor.enabled": True,
    "monitoring.podMonitor.labels": {"team": "a"},
    "monitoring.podMonitor.interval": "1m",
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}}],
}
COMPANY: dict[str, Values] = {
    "rbac.watchNamespace": {"rbac": {"scope": "namespaced"}},
    **{
        f"gateway.autoscaling.{name}": {"gateway": {"autoscaling": {"enabled": True}}}
        for name in ("minReplicas", "maxReplicas", "cpuUtilization", "inFlight", "behavior")
    },
    "gateway.keys.valkey.passwordSecret.key": {"gateway": {"keys": {"valkey": {"passwordSecret": {"name": "valkey"}}}}},
    "gateway.tracing.sampleRatio": {"gateway": {"tracing": {"endpoint": "http://collector:4318"}}},
    **{
        f"prePull.{name}": {"prePull": {"images": ["vllm/vllm-openai:v0.33.0"]}}
        for name in _POD.keys() - {"topologySpreadConstraints", "extraEnv"}
    },
    "monitoring.podMonitor.labels": {"monitoring": {"podMonitor": {"enabled": True}}},
    "monitoring.podMonitor.interval": {"monitoring": {"podMonitor": {"enabled": True}}},
}


def put(values: Values, path: str, value: Any) -> Values:
    changed = copy.deepcopy(values)
    *parents, last = path.split(".")
    inner = changed
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return changed


def test_the_table_above_knows_every_value() -> None:
    assert set(leaves(DEFAULTS)) == set(OTHERS)


@pytest.mark.parametrize("path", OTHERS)
def test_a_value_changes_what_is_rendered(chart: Chart, path: str) -> None:
    company = COMPANY.get(path, {})

    assert chart.render(company) != chart.render(put(company, path, OTHERS[path]))


@pytest.mark.parametrize("path", OTHERS)
def test_the_schema_knows_the_value(path: str) -> None:
    jsonschema.validate(put(COMPANY.get(path, {}), path, OTHERS[path]), SCHEMA)


@pytest.mark.parametrize("path", sorted({path.rpartition(".")[0] for path in OTHERS}))
def test_a_typo_is_refused_at_every_level(path: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(put({}, f"{path}.typo".removeprefix("."), "x"), SCHEMA)


def test_no_object_takes_any_name() -> None:
    # Objects of other charts' and other kinds' making: what they may hold is not ours to know.
    free = {"global", "extraObjects"}
    schemas = {**{name: SCHEMA["properties"][name] for name in SCHEMA["properties"].keys() - free}, **SCHEMA["$defs"]}

    loose = [name for name, schema in schemas.items() for one in objects(schema) if "additionalProperties" not in one]

    assert loose == []


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema of an object within a schema."""
    match schema:
        case {"type": "object"}:
            yield schema
            for inner in (*schema.get("properties", {}).values(), schema.get("additionalProperties")):
                yield from objects(inner)
        case {"items": items}:
            yield from objects(items)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"gatway": {}}, "gatway"),
        ({"gateway": {"replica": 3}}, "replica"),
        ({"operator": {"replicas": "two"}}, "want integer"),
        ({"image": {"digest": "latest"}}, "does not match"),
        ({"rbac": {"watchNamespace": "models"}}, "scope"),
        ({"gateway": {"drainSeconds": -1}}, "minimum"),
        ({"operator": {"acceleratorPrices": {"NVIDIA-L4": 0}}}, "minimum"),
        *(
            ({"operator": {"acceleratorPrices": {"NVIDIA-L4": text}}}, f'NVIDIA-L4 is "{text}": give a number from')
            for text in ("0.0001", "-1", "100000.5", "0,81", "$4", "")
        ),
        ({"gateway": {"accessLog": "some"}}, "accessLog"),
        ({"gateway": {"tracing": {"endpoint": "collector:4317"}}}, "does not match"),
        ({"hub": {"endpoint": "mirror"}}, "does not match"),
        ({"hub": {"endpoint": ""}}, "minLength"),
        ({"oci": {"plainHttp": ["http://registry:5000"]}}, "does not match"),
        ({"passLabels": ["cost centre"]}, "does not match"),
        ({"commonLabels": {"team": "a b"}}, "does not match"),
        ({"gateway": {"tolerations": [{"key": "a", "operater": "Exists"}]}}, "operater"),
        ({"operator": {"affinity": {"nodeAfinity": {}}}}, "nodeAfinity"),
        ({"operator": {"resources": {"limits": {"memory": "1 GB"}}}}, "does not match"),
        ({"gateway": {"extraEnv": [{"name": "A", "valueFrom": {"secret": {}}}]}}, "secret"),
        ({"prePull": {"images": ["vllm/vllm openai"]}}, "does not match"),
        ({"networkPolicy": {"clients": [{"ipBlock": {"cdir": "10.0.0.0/8"}}]}}, "cdir"),
        ({"gateway": {"autoscaling": {"enabled": True, "minReplicas": 11}}}, "minReplicas (11) is over"),
    ],
)
def test_helm_refuses_what_cannot_be_meant(chart: Chart, values: Values, complaint: str) -> None:
    assert complaint in chart.refuse(values)


def test_defaults_are_valid_and_lint_clean(chart: Chart) -> None:
    jsonschema.validate(DEFAULTS, SCHEMA)

    assert "0 chart(s) failed" in chart.helm("lint", "--strict", str(CHART))


def test_every_value_is_described() -> None:
    described = comments(VALUES.read_text())

    assert [path for path in leaves(DEFAULTS) if not described[path]] == []


def test_the_readme_says_what_the_values_say() -> None:
    page = README.read_text()

    assert rewritten(page) == page, "run: uv run python -m tests.chart.readme"


def names_of(manifests: list[Manifest]) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in manifests}


def test_names_follow_the_release(chart: Chart) -> None:
    ours = {name for name in names_of(chart.render(release="prod")) if not name.endswith("lull.dev")}

    assert all(name.startswith("prod-lull") for name in ours)
