"""How requests find their engine, seen from outside."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.fakes.engine import FakeEngine
    from tests.unit.gateway.conftest import World

SYSTEM = {"role": "system", "content": "You are the assistant of a bank, and answer in two sentences. " * 40}


async def ask(world: World, *said: str) -> None:
    messages = [SYSTEM, *({"role": "user", "content": text} for text in said)]
    async with world.session.post(
        f"{world.url}/v1/chat/completions", json={"model": "llama", "messages": messages}
    ) as response:
        assert response.status == 200


def count(*engines: FakeEngine) -> list[int]:
    return [len(engine.received) for engine in engines]


async def test_a_conversation_stays_with_its_engine(world: World) -> None:
    world.add_model()
    engines = [await world.add_engine(pod=f"pod-{number}") for number in range(4)]
    await world.wait_listed()

    said: list[str] = []
    for number in range(6):
        said.append(f"Question {number}. " * 60)
        await ask(world, *said)

    assert sorted(count(*engines)) == [0, 0, 0, 6]


async def test_requests_that_share_nothing_spread(world: World) -> None:
    world.add_model()
    engines = [await world.add_engine(pod=f"pod-{number}") for number in range(2)]
    await world.wait_listed()

    for _ in range(6):
        await world.ask()

    assert count(*engines) == [3, 3]


@pytest.mark.parametrize(
    "mark",
    [{"unschedulable": True}, {"taints": [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]}],
    ids=["cordon", "taint"],
)
async def test_a_node_that_is_about_to_go_gets_nothing_new(world: World, mark: dict[str, Any]) -> None:
    world.add_model()
    for name in ("node-1", "node-2"):
        world.put_node(name)

    leaving = await world.add_engine(pod="pod-1", node="node-1")
    staying = await world.add_engine(pod="pod-2", node="node-2")
    await world.wait_listed()
    for _ in range(4):
        await world.ask()
    assert count(leaving, staying) == [2, 2]

    world.put_node("node-1", **mark)
    await until_spared(world, leaving)
    before = count(leaving, staying)
    for _ in range(4):
        await world.ask()

    assert count(leaving, staying) == [before[0], before[1] + 4]


async def until_spared(world: World, leaving: FakeEngine) -> None:
    """Until two requests in a row went to the other one."""
    async with asyncio.timeout(5):
        while True:
            before = count(leaving)
            await world.ask()
            await world.ask()
            if count(leaving) == before:
                return


async def test_a_node_that_stays_after_all_is_used_again(world: World) -> None:
    world.add_model()
    world.put_node("node-1", unschedulable=True)
    back = await world.add_engine(pod="pod-1", node="node-1")
    await world.add_engine(pod="pod-2", node="node-2")
    await world.wait_listed()
    await until_spared(world, back)
    before = len(back.received)

    world.put_node("node-1")

    async with asyncio.timeout(5):
        while len(back.received) == before:
            await world.ask()


async def test_nodes_that_may_not_be_read_for_a_moment_are_read_again(world: World) -> None:
    world.add_model()
    leaving = await world.add_engine(pod="pod-1", node="node-1")
    await world.add_engine(pod="pod-2", node="node-2")
    await world.wait_listed()
    # An API server that starts answers 403 until it has read its roles.
    world.kube.forbid("nodes")
    world.put_node("node-1", unschedulable=True)
    await world.ask()
    world.kube.permit("nodes")

    await until_spared(world, leaving)


async def test_where_all_nodes_go_they_are_used(world: World) -> None:
    world.add_model()
    world.put_node("node-1", "ToBeDeletedByClusterAutoscaler")
    engine = await world.add_engine(node="node-1")
    await world.wait_listed()

    status, _ = await world.ask()

    assert status == 200
    assert count(engine) == [1]
