"""The CRD as an API server understands it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lull.api.llmdeployment import parse_llmdeployment
from lull.doors.kube import LLMDEPLOYMENTS, Kube, Refused
from tests.integration.conftest import ApiServer
from tests.invalid import BROKEN_RULES, WRONG_FIELDS
from tests.manifests import manifest


async def test_writes_defaults_into_the_object(kube: Kube, namespace: str) -> None:
    stored = await kube.apply(manifest(namespace=namespace))

    spec = stored["spec"]
    assert "image" not in spec["engine"]
    assert spec["scaling"] == {
        "mode": "Active",
        "minReplicas": 0,
        "maxReplicas": 8,
        "idleAfter": "10m",
        "target": {"queueLength": 4},
        "schedules": [],
        "behavior": {
            "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": []},
            "scaleDown": {"selectPolicy": "Max", "policies": []},
        },
    }
    assert spec["placement"]["pools"] == [
        {"name": "default", "capacityType": "Any", "nodeSelector": {}, "tolerations": []}
    ]
    assert "replicas" not in spec


async def test_defaults_are_those_of_the_types(kube: Kube, namespace: str) -> None:
    written = manifest(namespace=namespace)

    stored = await kube.apply(written)

    assert parse_llmdeployment(stored).spec == parse_llmdeployment(written).spec


@pytest.mark.parametrize(("spec", "message"), BROKEN_RULES.values(), ids=BROKEN_RULES)
async def test_refuses_what_breaks_a_rule(kube: Kube, namespace: str, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as refused:
        await kube.apply({**manifest(namespace=namespace), "spec": spec})

    assert refused.value.status == 422
    assert message in refused.value.message


@pytest.mark.parametrize(("spec", "field"), WRONG_FIELDS.values(), ids=WRONG_FIELDS)
async def test_refuses_a_wrong_field_by_its_path(kube: Kube, namespace: str, spec: dict[str, Any], field: str) -> None:
    # Created rather than applied: to an apply of the wrong type the API server answers 500.
    with pytest.raises(Refused) as refused:
        await kube.create({**manifest(namespace=namespace), "spec": spec})

    assert field in refused.value.message


@pytest.mark.parametrize("name", ["8-billion", "a" * 41, "llama.8b"])
async def test_refuses_a_name_that_no_service_may_have(kube: Kube, namespace: str, name: str) -> None:
    with pytest.raises(Refused, match=r"metadata\.name must be at most 40"):
        await kube.apply(manifest(name=name, namespace=namespace))


async def test_takes_the_longest_name(kube: Kube, namespace: str) -> None:
    stored = await kube.apply(manifest(name="a" * 40, namespace=namespace))

    assert stored["metadata"]["generation"] == 1


async def test_kubectl_shows_what_matters(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    created = await kube.apply(manifest(namespace=namespace, accelerator={"product": "NVIDIA-L4"}))
    await kube.patch_status(
        LLMDEPLOYMENTS,
        created,
        {
            "summary": "1/2",
            "accelerator": "1x NVIDIA-L4",
            "spot": "0/1",
            "adaptersSummary": "2/2",
            "cost": {
                "currency": "USD",
                "perHour": "1.61",
                "perReplica": "0.8048",
                "month": "2026-11",
                "thisMonth": "3.20",
                "since": "2026-11-01T00:00:00Z",
                "at": "2026-11-21T14:05:00Z",
            },
            "url": "http://lull-gateway.lull-system.svc/v1",
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Serving",
                    "message": "1 of 2 replicas ready.",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
        },
    )

    header, row = apiserver.kubectl("get", "llm", "-n", namespace, "-o", "wide").splitlines()

    assert header.split() == [
        "NAME",
        "MODEL",
        "READY",
        "REPLICAS",
        "REASON",
        "ACCELERATOR",
        "SPOT",
        "ADAPTERS",
        "COST/H",
        "URL",
        "AGE",
    ]
    assert row.startswith("llama-8b")
    assert " ".join(row.split()[1:-1]) == (
        "hf://org/name True 1/2 Serving 1x NVIDIA-L4 0/1 2/2 1.61 http://lull-gateway.lull-system.svc/v1"
    )


async def test_kubectl_finds_it_under_all(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    await kube.apply(manifest(namespace=namespace))

    assert "llmdeployment.lull.dev/llama-8b" in apiserver.kubectl("get", "all", "-n", namespace)


async def test_kubectl_scale_sets_spec_replicas(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    created = await kube.apply(manifest(namespace=namespace))
    await kube.patch_status(LLMDEPLOYMENTS, created, {"replicas": 1, "selector": "lull.dev/deployment=llama-8b"})

    apiserver.kubectl("scale", "llm/llama-8b", "-n", namespace, "--replicas=3")

    scale = json.loads(
        apiserver.kubectl(
            "get", "--raw", f"/apis/lull.dev/v1alpha1/namespaces/{namespace}/llmdeployments/llama-8b/scale"
        )
    )
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 1, "selector": "lull.dev/deployment=llama-8b"}


async def test_refuses_a_name_that_stands_twice(kube: Kube, namespace: str) -> None:
    pools = [{"name": "a"}, {"name": "a", "capacityType": "Spot"}]

    with pytest.raises(Refused, match="Duplicate value"):
        await kube.create(manifest(namespace=namespace, placement={"pools": pools}))


async def test_drops_what_it_does_not_know(kube: Kube, namespace: str) -> None:
    stored = await kube.create(manifest(namespace=namespace, sleep={"level": 1}))

    assert "sleep" not in stored["spec"]


async def test_another_manager_may_own_an_adapter(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    ours = {"items": [{"name": "fr", "source": "s3://bucket/fr"}]}
    theirs = {"items": [{"name": "de", "source": "s3://bucket/de"}]}
    await kube.apply(manifest(namespace=namespace, adapters=ours))

    apiserver.kubectl(
        "apply", "--server-side", "--field-manager=training", "-f", "-",
        stdin=json.dumps(manifest(namespace=namespace, adapters=theirs)),
    )  # fmt: skip

    again = await kube.apply(manifest(namespace=namespace, adapters=ours))
    assert {item["name"] for item in again["spec"]["adapters"]["items"]} == {"fr", "de"}


async def test_an_autoscaler_may_own_the_replicas(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    await kube.apply(manifest(namespace=namespace))

    apiserver.kubectl("scale", "llm/llama-8b", "-n", namespace, "--replicas=5")

    assert (await kube.apply(manifest(namespace=namespace)))["spec"]["replicas"] == 5


async def test_explains_the_whole_spec(apiserver: ApiServer) -> None:
    explained = apiserver.kubectl("explain", "llmdeployment.spec", "--recursive")

    for part in (
        "speculative",
        "kvOffload",
        "nodesPerReplica",
        "onDemandBase",
        "schedules",
        "topologySpreadConstraints",
    ):
        assert part in explained


async def test_kubectl_explain_says_what_a_field_does(apiserver: ApiServer) -> None:
    explained = apiserver.kubectl("explain", "llmdeployment.spec.scaling.idleAfter")

    assert "Time without demand after which the last replica goes" in " ".join(explained.split())


def test_kubectl_refuses_a_misspelt_field(apiserver: ApiServer, namespace: str) -> None:
    misspelt = {**manifest(namespace=namespace), "spec": {"model": {"source": "hf://a/b"}, "scalling": {}}}

    answer = apiserver.kubectl("create", "-f", "-", stdin=json.dumps(misspelt), check=False)

    assert 'unknown field "spec.scalling"' in answer


def test_every_example_is_valid(apiserver: ApiServer, namespace: str) -> None:
    answer = apiserver.kubectl("apply", "-n", namespace, "--validate=strict", "-f", "crds/examples")

    assert answer.count("created") == 10
