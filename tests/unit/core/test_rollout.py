"""Pods are replaced as the spec says, and in place where there is no room for one more."""

from __future__ import annotations

from typing import Any

import pytest

from lull.api import names
from lull.api.llmdeployment import LLMDeployment, Manifest
from lull.api.timestamps import render_timestamp
from lull.core.manifests import build, find_revision
from lull.core.observed import Observed
from lull.core.rollout import IN_PLACE, Strategy, apply_strategy, choose_strategies, find_next_look, read_strategy
from tests.manifests import SETTINGS, manifest, stored

NOW = 1_800_000_000.0
LACKING = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available."
SURGING = Strategy(1, 0)


def _deployment(**spec: Any) -> LLMDeployment:
    return stored(manifest(**spec))


def _pod(deployment: LLMDeployment, *, is_new: bool, waits: float | None = None, message: str = LACKING) -> Manifest:
    pool = deployment.spec.placement.pools[0]
    scheduled: Manifest = {"type": "PodScheduled", "status": "True"}
    if waits is not None:
        since = render_timestamp(NOW - waits)
        scheduled = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": since,
        }
    revision = find_revision(deployment, pool) if is_new else "earlier"
    return {
        "metadata": {"labels": {names.LABEL_POOL: pool.name, names.LABEL_REVISION: revision}},
        "status": {"conditions": [scheduled]},
    }


def _choose(deployment: LLMDeployment, *pods: Manifest, strategy: Strategy | None = None) -> Strategy:
    workload = build(deployment, SETTINGS)[-1]
    there = workload if strategy is None else apply_strategy(workload, strategy)
    (chosen,) = choose_strategies(deployment, Observed(workloads=(there,), pods=pods), now=NOW).values()
    return chosen


def test_surges_while_there_is_room() -> None:
    deployment = _deployment()

    assert _choose(deployment, _pod(deployment, is_new=False), _pod(deployment, is_new=True)) == SURGING


def test_replaces_in_place_once_a_successor_has_looked_for_accelerators_in_vain() -> None:
    deployment = _deployment()
    earlier = _pod(deployment, is_new=False)

    assert _choose(deployment, earlier, _pod(deployment, is_new=True, waits=14)) == SURGING
    assert _choose(deployment, earlier, _pod(deployment, is_new=True, waits=15)) == IN_PLACE


def test_goes_on_in_place_until_the_last_of_the_earlier_is_gone() -> None:
    deployment = _deployment()
    going = _pod(deployment, is_new=False)
    going["metadata"]["deletionTimestamp"] = render_timestamp(NOW)
    successor = _pod(deployment, is_new=True)

    # The successor has its accelerators now; another one would look for some in vain again.
    assert _choose(deployment, _pod(deployment, is_new=False), successor, strategy=IN_PLACE) == IN_PLACE
    assert _choose(deployment, going, successor, strategy=IN_PLACE) == IN_PLACE
    assert _choose(deployment, successor, strategy=IN_PLACE) == SURGING


def test_a_replica_that_is_added_takes_nobodys_place() -> None:
    deployment = _deployment()

    assert _choose(deployment, _pod(deployment, is_new=True), _pod(deployment, is_new=True, waits=99)) == SURGING


@pytest.mark.parametrize(
    "message", ["0/3 nodes are available: 3 node(s) had untolerated taint(s).", "3 Insufficient memory", ""]
)
def test_what_no_ended_replica_would_free_is_waited_for(message: str) -> None:
    deployment = _deployment()
    successor = _pod(deployment, is_new=True, waits=99, message=message)

    assert _choose(deployment, _pod(deployment, is_new=False), successor) == SURGING


def test_a_replica_on_cpu_gives_its_memory_to_its_successor() -> None:
    deployment = _deployment(accelerator={"vendor": "Cpu"})
    successor = _pod(deployment, is_new=True, waits=99, message="1 Insufficient memory")

    assert _choose(deployment, _pod(deployment, is_new=False), successor) == IN_PLACE


def test_waits_for_accelerators_where_the_spec_says_so() -> None:
    deployment = _deployment(rollout={"whenFull": "Wait", "maxSurge": "50%"})

    chosen = _choose(deployment, _pod(deployment, is_new=False), _pod(deployment, is_new=True, waits=999))

    assert chosen == Strategy("50%", 0)


def test_a_strategy_without_surge_is_left_as_it_is() -> None:
    deployment = _deployment(rollout={"maxSurge": 0, "maxUnavailable": 3})

    chosen = _choose(deployment, _pod(deployment, is_new=False), _pod(deployment, is_new=True, waits=999))

    assert chosen == Strategy(0, 3)


def test_says_when_time_alone_would_change_its_mind() -> None:
    deployment = _deployment()
    waiting, placed = _pod(deployment, is_new=True, waits=5), _pod(deployment, is_new=True)

    assert find_next_look(deployment, Observed(pods=(placed, waiting)), now=NOW) == pytest.approx(10)
    assert find_next_look(deployment, Observed(pods=(placed,)), now=NOW) is None
    assert find_next_look(deployment, Observed(pods=(_pod(deployment, is_new=True, waits=99),)), now=NOW) is None


def test_a_worker_without_accelerators_counts_like_its_leader() -> None:
    deployment = _deployment(accelerator={"nodesPerReplica": 2}, parallelism={"tensor": 2})
    workload = build(deployment, SETTINGS)[-1]
    observed = Observed(
        workloads=(workload,),
        pods=(_pod(deployment, is_new=False), _pod(deployment, is_new=True)),
        workers=(_pod(deployment, is_new=True, waits=99),),
    )

    (chosen,) = choose_strategies(deployment, observed, now=NOW).values()

    assert chosen == IN_PLACE
    assert read_strategy(apply_strategy(workload, chosen)) == IN_PLACE


def test_a_pool_that_is_off_the_list_is_left_to_its_end() -> None:
    deployment = _deployment()
    workload = build(deployment, SETTINGS)[-1]
    other = {**workload, "metadata": {**workload["metadata"], "labels": {names.LABEL_POOL: "gone"}}}

    assert choose_strategies(deployment, Observed(workloads=(other,)), now=NOW) == {"llama-8b-default": SURGING}
