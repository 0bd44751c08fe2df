"""Replicas of several pods: engines over two nodes, made by the real LeaderWorkerSet controller."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from e2e.cluster.extras import lws_installed, uninstall_lws
from e2e.demo.story import real_deployment
from e2e.lab import is_ready, sim_deployment
from e2e.scenarios.clients import ask, load
from lull.api import names
from lull.doors.kube import NETWORK_POLICIES, SERVICES

if TYPE_CHECKING:
    from e2e.lab import Lab
    from lull.api.llmdeployment import Manifest

# Kills every process of a container but the first, which the kernel guards from what is inside: vLLM's worker dies.
_KILL_CHILDREN = """\
import os
for entry in os.listdir("/proc"):
    if entry.isdigit() and int(entry) not in {1, os.getpid()}:
        os.kill(int(entry), 9)
"""
_KILL_FIRST = "import os; os.kill(1, 15)"


async def test_nothing_is_half_built_without_leaderworkerset_and_all_of_it_once_it_is_there(lab: Lab) -> None:
    await asyncio.to_thread(uninstall_lws, lab.installation.cluster)
    await lab.apply(_over_two_nodes(sim_deployment(lab.installation, "pair")))
    condition = await lab.until_condition("pair", "SpecValid", "False", "LeaderWorkerSetMissing")
    assert "LeaderWorkerSet" in condition["message"]
    assert await lab.pods("pair") == []
    assert [await _children(lab, "pair", kind) for kind in (SERVICES, NETWORK_POLICIES)] == [[], []]

    with lws_installed(lab.installation.cluster):
        await lab.until_condition("pair", "SpecValid", "True")
        await lab.until_condition("pair", "Ready", "True", "ScaledToZero")
        answer = await ask(lab, "pair")

        assert answer.choices[0].message.content
        assert [_component(pod) for pod in await _members(lab, "pair")] == ["engine", "engine-worker"]
        await lab.kubectl("delete", "llm", "pair", "--wait=true")
        await lab.until("the group is gone", lambda: _is_gone(lab, "pair"))


async def test_a_group_comes_back_whole_when_a_member_dies_and_no_request_is_lost(lab: Lab) -> None:
    with lws_installed(lab.installation.cluster):
        await lab.apply(
            _over_two_nodes(
                sim_deployment(
                    lab.installation,
                    "twins",
                    sim={"decode_tps": 20},
                    scaling={"minReplicas": 2, "maxReplicas": 2},
                )
            )
        )
        await _until_groups(lab, "twins", 2)
        before = await _uids(lab, "twins")

        async with load(lab, "twins", clients=6, tokens=20) as outcome:
            await asyncio.sleep(2)
            victim = next(pod for pod in await _members(lab, "twins") if _component(pod) == names.COMPONENT_WORKER)
            await _end(lab, victim, _KILL_FIRST)
            await lab.until("its group is another one", lambda: _has_changed(lab, "twins", before, at_least=2))
            await _until_groups(lab, "twins", 2)
            await asyncio.sleep(2)

        after = await _uids(lab, "twins")
        group = victim["metadata"]["labels"]["leaderworkerset.sigs.k8s.io/group-index"]
        changed = {name for name in before if after[name] != before[name]}
        assert changed == {f"twins-default-{group}", f"twins-default-{group}-1"}
        assert outcome.failures == []
        assert len(outcome.broken) <= 6
        assert outcome.answered > 6
        await lab.kubectl("delete", "llm", "twins", "--wait=true")


@pytest.mark.usefixtures("hub")
async def test_real_vllm_over_two_nodes_wakes_answers_and_survives_the_death_of_its_worker(lab: Lab) -> None:
    image = lab.installation.images["engine-cpu"]
    with lws_installed(lab.installation.cluster):
        deployment = _over_two_nodes(real_deployment(image, "real"))
        deployment["spec"]["scaling"] |= {"maxReplicas": 1, "idleAfter": "10m"}
        await lab.apply(deployment)
        await lab.until_condition("real", "Ready", "True", "ScaledToZero")

        assert (await ask(lab, "real", tokens=12)).choices[0].message.content
        before = await _uids(lab, "real")
        worker = next(pod for pod in await _members(lab, "real") if _component(pod) == names.COMPONENT_WORKER)
        await _end(lab, worker, _KILL_CHILDREN)
        await lab.until("all of the group is new", lambda: _has_changed(lab, "real", before, at_least=2))

        # It asks while the group starts again: the request is held, and answered.
        assert (await ask(lab, "real", tokens=12)).choices[0].message.content
        await lab.kubectl("delete", "llm", "real", "--wait=true")


@pytest.mark.usefixtures("hub")
async def test_real_vllm_over_two_tensor_parallel_ranks_in_one_pod(lab: Lab) -> None:
    image = lab.installation.images["engine-cpu"]
    deployment = real_deployment(image, "ranks")
    deployment["spec"] |= {"parallelism": {"tensor": 2}, "resources": {"sharedMemory": "1Gi"}}
    deployment["spec"]["engine"]["env"] = [{"name": "VLLM_CPU_OMP_THREADS_BIND", "value": "0|1"}]
    await lab.apply(deployment)
    await lab.until_condition("ranks", "Ready", "True", "ScaledToZero")

    assert (await ask(lab, "ranks", tokens=12)).choices[0].message.content
    assert len(await lab.pods("ranks")) == 1
    await lab.kubectl("delete", "llm", "ranks", "--wait=true")


def _over_two_nodes(deployment: Manifest) -> Manifest:
    spec = deployment["spec"]
    return {
        **deployment,
        "spec": {
            **spec,
            "accelerator": {**spec["accelerator"], "nodesPerReplica": 2},
            "parallelism": {"tensor": 2},
            "scaling": {**spec["scaling"]},
        },
    }


async def _members(lab: Lab, name: str) -> list[Manifest]:
    """Pods of an LLMDeployment that are not on their way out, leaders before their workers."""
    pods = [pod for pod in await lab.pods(name) if "deletionTimestamp" not in pod["metadata"]]
    return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))


async def _uids(lab: Lab, name: str) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in await _members(lab, name)}


async def _has_changed(lab: Lab, name: str, before: dict[str, str], *, at_least: int) -> bool:
    after = await _uids(lab, name)
    return after.keys() == before.keys() and sum(after[pod] != before[pod] for pod in before) >= at_least


async def _until_groups(lab: Lab, name: str, count: int) -> None:
    async def check() -> bool:
        members = await _members(lab, name)
        leaders = [pod for pod in members if _component(pod) == names.COMPONENT_ENGINE]
        return len(leaders) == count and len(members) == 2 * count and all(map(is_ready, members))

    await lab.until(f"{name}: {count} groups", check)


async def _end(lab: Lab, pod: Manifest, script: str) -> None:
    # Its own process may be among those that end.
    await lab.kubectl("exec", pod["metadata"]["name"], "-c", "engine", "--", "python3", "-c", script, check=False)


async def _is_gone(lab: Lab, name: str) -> bool:
    return not await lab.pods(name)


async def _children(lab: Lab, name: str, kind: Any) -> list[Manifest]:
    listing = await lab.kube.list(kind, namespace=lab.namespace, labels=f"{names.LABEL_DEPLOYMENT}={name}")
    return list(listing.items)


def _component(pod: Manifest) -> str:
    return str(pod["metadata"]["labels"][names.LABEL_COMPONENT])
