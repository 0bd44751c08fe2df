"""The autoscaler in a cluster where whatever can go wrong does: laws that hold all the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import ceil
from random import Random

import pytest

from tests.simulation.apiserver import Write
from tests.simulation.cluster import COLD_START, IN_FLIGHT, MOST, QUEUE, SLEEPY, WORKLOAD, Cluster, Load, list_turns
from tests.simulation.virtual import run

SEEDS = range(8)
COURSE = (Load(10, 0), Load(60, 11), Load(45, 3), Load(60, 0), Load(60, 1, is_glimpse=True), Load(90, 7))
"""Of each load, one count of replicas is right, wherever it is come to from."""
CRASHES = range(1, 25)


def needed(requests: int) -> range:
    """Replicas that are enough: a request may wait, or not."""
    least, most = ceil(requests / (QUEUE + IN_FLIGHT)), ceil(requests / IN_FLIGHT)
    return range(min(least, MOST), min(most, MOST) + 1)


def since(cluster: Cluster, seconds: float) -> list[Write]:
    """What the autoscaler wrote in the last seconds."""
    now = asyncio.get_running_loop().time()
    return [write for write in cluster.ours if write.at > now - seconds]


def draw_loads(chance: Random) -> list[Load]:
    return [
        Load(
            chance.uniform(5, 60),
            chance.choice([0, 0, 1, 3, 7, 12, 20, 100]),
            is_glimpse=chance.random() < 0.2,
        )
        for _ in range(6)
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_keeps_its_laws_while_signals_and_watches_are_lost_late_and_repeated(seed: int) -> None:
    async def main() -> None:
        cluster, chance = Cluster(seed), Random(seed)
        last = chance.choice([0, 3, 9, 20])
        async with cluster.operated():
            cluster.disturb(is_troubled=True)
            await cluster.serve(*draw_loads(chance))
            cluster.disturb(is_troubled=False)
            await cluster.serve(Load(180, last))

            assert cluster.violations == []
            assert cluster.replicas in needed(last)
            assert since(cluster, 60) == []
            # What was added is ready before any of it is taken back.
            assert all(
                down.at - up.at >= COLD_START for up, down in list_turns(cluster.ours) if down.replicas < down.before
            )

    run(main, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_keeps_its_laws_through_crashes_in_the_midst_of_trouble(seed: int) -> None:
    async def main() -> None:
        cluster, chance = Cluster(seed), Random(seed)
        async with cluster.operated():
            cluster.disturb(is_troubled=True)
            for load in draw_loads(chance):
                if chance.random() < 0.5:
                    cluster.crash_at = cluster.writes + chance.randrange(1, 4)
                else:
                    # When load has just changed, and nobody is to remember what it was.
                    await cluster.serve(replace(load, seconds=chance.uniform(0, 4)))
                    cluster.crash()
                await cluster.serve(load)
            cluster.crash_at = None
            cluster.disturb(is_troubled=False)
            await cluster.serve(Load(180, 7))

            assert cluster.crashed
            assert cluster.violations == []
            assert cluster.replicas in needed(7)
            assert since(cluster, 60) == []

    run(main, seed)


async def follow_course(crash_at: int | None) -> Cluster:
    cluster = Cluster(1)
    cluster.crash_at = crash_at
    async with cluster.operated():
        await cluster.serve(*COURSE)
    return cluster


def test_goes_its_course_where_nothing_is_wrong() -> None:
    cluster = run(lambda: follow_course(None), 1)

    assert cluster.violations == []
    # At first sight it takes the count over.
    assert [write.replicas for write in cluster.ours] == [0, 3, 1, 0, 1, 0, 2]
    assert cluster.writes <= CRASHES[-1]


@pytest.mark.parametrize("crash_at", CRASHES)
def test_a_crash_before_or_after_any_write_ends_where_none_would_have(crash_at: int) -> None:
    cluster = run(lambda: follow_course(crash_at), 1)

    assert cluster.violations == []
    assert cluster.replicas == 2


def test_the_same_seed_is_the_same_run() -> None:
    async def main() -> list[Write]:
        cluster = Cluster(3)
        async with cluster.operated():
            cluster.disturb(is_troubled=True)
            await cluster.serve(*draw_loads(Random(3)))
        return cluster.api.scales

    assert run(main, 3) == run(main, 3)


@pytest.mark.parametrize("lie", ["away", "garbage", "nothing", "stale", "absurd"])
def test_one_gateway_that_lies_breaks_no_law_and_leaves_no_trace(lie: str) -> None:
    async def main() -> None:
        cluster = Cluster(5)
        async with cluster.operated():
            await cluster.serve(Load(40, 7))
            cluster.gateways[1].lie = lie
            # The other one has its half of these.
            await cluster.serve(Load(60, 16))
            told = set(needed(8)) | set(needed(16)) | ({MOST} if lie == "absurd" else set())
            assert cluster.replicas in range(min(told), max(told) + 1)
            assert [*list_turns(since(cluster, 60))] == []
            cluster.gateways[1].lie = ""
            await cluster.serve(Load(90, 11))

            assert cluster.violations == []
            assert cluster.replicas in needed(11)
            assert since(cluster, 30) == []

    run(main, 5)


@pytest.mark.parametrize("lie", ["away", "garbage"])
def test_goes_down_for_nothing_that_it_only_guesses(lie: str) -> None:
    async def main() -> None:
        cluster = Cluster(6)
        async with cluster.operated():
            await cluster.serve(Load(40, 7))
            cluster.gateways[1].lie = lie
            await cluster.serve(Load(SLEEPY * 4, 0))
            assert cluster.replicas == 2

            cluster.gateways[1].lie = ""
            await cluster.serve(Load(SLEEPY * 2, 0))
            assert cluster.replicas == 0

    run(main, 6)


@pytest.mark.parametrize("lie", ["away", "nothing", "stale"])
def test_wakes_for_one_gateway_while_the_other_lies(lie: str) -> None:
    async def main() -> None:
        cluster = Cluster(7)
        cluster.gateways[1].lie = lie
        async with cluster.operated():
            await cluster.serve(Load(10, 0), Load(3, 1))

            assert cluster.replicas == 1

    run(main, 7)


def test_gateways_that_restart_take_nothing_away() -> None:
    async def main() -> None:
        cluster = Cluster(8)
        async with cluster.operated():
            await cluster.serve(Load(40, 7))
            for gateway in cluster.gateways:
                gateway.restart()
                await cluster.serve(Load(10, 7))

            assert cluster.violations == []
            assert cluster.replicas == 2
            assert since(cluster, 30) == []

    run(main, 8)


@pytest.mark.parametrize("seed", SEEDS)
def test_answers_a_foreign_writer_once_and_ends_where_it_would_have_without(seed: int) -> None:
    async def main() -> None:
        cluster, chance = Cluster(seed), Random(seed)
        async with cluster.operated():
            await cluster.serve(Load(60, 7))
            own = len(cluster.ours)
            for written in range(1, 8):
                cluster.api.scale(WORKLOAD, chance.randrange(10), manager="kubectl")
                await cluster.serve(Load(chance.uniform(1, 15), 7))
                assert len(cluster.ours) - own <= written
            await cluster.serve(Load(60, 7))

            assert cluster.violations == []
            assert cluster.replicas == 2
            assert since(cluster, 30) == []

    run(main, seed)


def test_who_is_asked_past_the_gateways_stays_awake_and_no_longer() -> None:
    async def main() -> None:
        cluster = Cluster(9)
        async with cluster.operated():
            await cluster.serve(Load(30, 3), Load(SLEEPY * 5, 0, past=2))
            assert cluster.replicas == 1

            # With an operator that has only just begun, too.
            cluster.crash()
            await cluster.serve(Load(SLEEPY * 2, 0, past=2))
            assert (cluster.crashed, cluster.replicas) == (1, 1)

            await cluster.serve(Load(SLEEPY * 2, 0))
            assert cluster.replicas == 0

    run(main, 9)


@pytest.mark.parametrize("seed", SEEDS)
def test_does_not_follow_noise(seed: int) -> None:
    async def main() -> None:
        cluster, chance = Cluster(seed), Random(seed)
        async with cluster.operated():
            await cluster.serve(Load(60, 12))
            for _ in range(15):
                # Of each window, there is a moment that needs all of them.
                await cluster.serve(*(Load(2, chance.randrange(1, 13)) for _ in range(5)), Load(2, 12))

            assert cluster.violations == []
            assert since(cluster, 180) == []

    run(main, seed)
