"""Replicas over several pools, whoever decides how many: Lull, a person or a HorizontalPodAutoscaler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from e2e.lab import conditions, is_ready, sim_deployment
from e2e.scenarios.clients import load
from lull.api import names

if TYPE_CHECKING:
    from e2e.lab import Lab
    from lull.api.llmdeployment import Manifest

SPOT = {"name": "spot", "capacityType": "Spot"}
DEMAND = {"name": "demand", "capacityType": "OnDemand"}
SPOT_FIRST = {"onDemandBase": 1, "pools": [SPOT, DEMAND]}


async def capacity_types(lab: Lab, name: str) -> list[str]:
    """What the nodes of the ready replicas are, or AssertionError while there are others."""
    pods = [pod for pod in await lab.pods(name) if "deletionTimestamp" not in pod["metadata"]]
    assert all(map(is_ready, pods))
    listing = await lab.kubectl("get", "nodes", "-o", "yaml")
    nodes = {node["metadata"]["name"]: node["metadata"]["labels"] for node in yaml.safe_load(listing)["items"]}
    return sorted(nodes[pod["spec"]["nodeName"]][names.LABEL_CAPACITY_TYPE] for pod in pods)


async def until_on(lab: Lab, name: str, *wanted: str) -> None:
    """Wait until the replicas are ready on nodes of these capacity types, one for each."""

    async def check() -> bool:
        return await capacity_types(lab, name) == sorted(wanted)

    await lab.until(f"{name}: replicas on {wanted}", check)


async def pools(lab: Lab, name: str) -> dict[str, int]:
    return {pool["name"]: pool["desiredReplicas"] for pool in (await lab.llm(name))["status"]["pools"]}


async def test_the_base_is_on_demand_and_the_rest_on_spot(lab: Lab) -> None:
    # Idle for long enough that the one replica can be seen before it goes.
    scaling = {"target": {"inFlight": 3}, "maxReplicas": 3, "idleAfter": "20s"}
    await lab.apply(sim_deployment(lab.installation, "mixed", scaling=scaling, placement=SPOT_FIRST))
    await lab.until_condition("mixed", "Ready", "True", "ScaledToZero")

    async with load(lab, "mixed", clients=9) as outcome:
        await until_on(lab, "mixed", "on-demand", "spot", "spot")
        assert await pools(lab, "mixed") == {"spot": 2, "demand": 1}

    await lab.until_replicas("mixed", 1)
    await until_on(lab, "mixed", "on-demand")
    await lab.until_condition("mixed", "Ready", "True", "ScaledToZero")
    assert outcome.failures == []
    assert outcome.broken == []
    decisions = (await lab.llm("mixed"))["status"]["decisions"]
    assert decisions[0]["reason"] == "Idle"
    assert any(record["message"].endswith("; 2 in spot, 1 in demand") for record in decisions)


async def test_a_person_may_set_the_replicas_of_all_pools_together(lab: Lab) -> None:
    await lab.apply(sim_deployment(lab.installation, "manual", placement=SPOT_FIRST))
    await lab.until_condition("manual", "Ready", "True", "ScaledToZero")

    await lab.kubectl("scale", "llm/manual", "--replicas=3")

    await until_on(lab, "manual", "on-demand", "spot", "spot")
    await lab.until_condition("manual", "ScalingActive", "False", "Manual")
    await lab.kubectl("scale", "llm/manual", "--replicas=1")
    await until_on(lab, "manual", "on-demand")
    await lab.kubectl("patch", "llm/manual", "--type=json", '-p=[{"op":"remove","path":"/spec/replicas"}]')
    await lab.until_condition("manual", "Ready", "True", "ScaledToZero")
    await lab.until_condition("manual", "ScalingActive", "True", "Scaling")


async def test_pools_may_come_and_go(lab: Lab) -> None:
    def wanted(*names_of_pools: Manifest) -> Manifest:
        return sim_deployment(lab.installation, "moving", replicas=2, placement={"pools": list(names_of_pools)})

    await lab.apply(wanted({**SPOT, "maxReplicas": 1}, DEMAND))
    await until_on(lab, "moving", "on-demand", "spot")

    await lab.apply(wanted(DEMAND))
    await until_on(lab, "moving", "on-demand", "on-demand")
    assert await pools(lab, "moving") == {"demand": 2}

    await lab.apply(wanted(SPOT, DEMAND))

    async def listed() -> bool:
        return await pools(lab, "moving") == {"spot": 0, "demand": 2}

    await lab.until("moving: what runs stays where it is", listed)


async def test_a_horizontal_pod_autoscaler_may_set_the_replicas_and_lull_goes_on_when_it_is_gone(lab: Lab) -> None:
    scaling = {"target": {"inFlight": 3}, "maxReplicas": 3}
    slow = {"decode_tps": 10}
    await lab.apply(
        sim_deployment(lab.installation, "scaled", sim=slow, replicas=1, placement=SPOT_FIRST, scaling=scaling)
    )
    await until_on(lab, "scaled", "on-demand")
    cpu: dict[str, Any] = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}

    await lab.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "scaled"},
            "spec": {
                "scaleTargetRef": {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": "scaled"},
                "minReplicas": 2,
                "maxReplicas": 3,
                "metrics": [{"type": "Resource", "resource": cpu}],
            },
        }
    )

    await until_on(lab, "scaled", "on-demand", "spot")

    async def satisfied() -> dict[str, Manifest] | None:
        autoscaler = await lab.kubectl("get", "hpa", "scaled", "-o", "yaml")
        found = conditions(yaml.safe_load(autoscaler))
        return found if "ScalingActive" in found else None

    found = await lab.until("scaled: the HorizontalPodAutoscaler looks at its pods", satisfied)
    assert found["AbleToScale"]["status"] == "True"
    # It knows which pods to measure, and only lacks somebody who measures.
    assert found["ScalingActive"]["reason"] == "FailedGetResourceMetric"
    await lab.until_condition("scaled", "ScalingActive", "False", "Manual")

    async with load(lab, "scaled", clients=12, tokens=10) as outcome:
        await lab.until_asked("scaled", 10)
        # Three are what Lull would have by now, and it is not asked; nor is whoever writes to a workload itself.
        await lab.kubectl("scale", "deployment/scaled-spot", "--replicas=3")

        async def put_right() -> bool:
            return await lab.replicas("scaled") == 2

        await lab.until("scaled: its workloads are put right", put_right)
        await until_on(lab, "scaled", "on-demand", "spot")
        await lab.kubectl("delete", "hpa", "scaled")
        await lab.kubectl("patch", "llm/scaled", "--type=json", '-p=[{"op":"remove","path":"/spec/replicas"}]')
        await lab.until_condition("scaled", "ScalingActive", "True", "Scaling")
        await until_on(lab, "scaled", "on-demand", "spot", "spot")

    assert outcome.failures == []
