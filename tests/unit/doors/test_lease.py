"""The Lease: one holder at a time, and a quick handover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from lull.doors import clock
from lull.doors.lease import Lease, LeaseLost, LeaseName
from tests.fakes.apiserver import FakeApiServer, connect_kube, serve_apiserver

LEASES = "/apis/coordination.k8s.io/v1/namespaces/lull-system/leases"
SECONDS = 0.9


@asynccontextmanager
async def candidates(*holders: str) -> AsyncIterator[tuple[FakeApiServer, list[Lease]]]:
    async with AsyncExitStack() as stack:
        server, url = await stack.enter_async_context(serve_apiserver())
        kubes = [await stack.enter_async_context(connect_kube(url)) for _ in holders]
        yield (
            server,
            [
                Lease(kube, LeaseName("lull-system", "lull-operator", holder=holder, seconds=SECONDS))
                for kube, holder in zip(kubes, holders, strict=True)
            ],
        )


def holder_of(server: FakeApiServer) -> str:
    holder: str = server.objects[LEASES]["lull-operator"]["spec"]["holderIdentity"]
    return holder


async def test_the_first_candidate_creates_and_holds_it() -> None:
    async with candidates("a") as (server, [first]):
        await first.acquire()

        assert first.is_held
        assert holder_of(server) == "a"


async def test_a_second_candidate_waits_while_the_first_renews() -> None:
    async with candidates("a", "b") as (server, [first, second]):
        await first.acquire()
        keeping = asyncio.ensure_future(first.keep())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SECONDS * 2.5):
                await second.acquire()

        assert not keeping.done()
        assert holder_of(server) == "a"
        keeping.cancel()


async def test_a_released_lease_is_taken_at_once() -> None:
    async with candidates("a", "b") as (server, [first, second]):
        await first.acquire()
        taking = asyncio.ensure_future(second.acquire())
        await asyncio.sleep(SECONDS / 4)

        await first.release()
        released = clock.monotonic()
        await taking

        assert clock.monotonic() - released < SECONDS / 2
        assert holder_of(server) == "b"


async def test_an_abandoned_lease_is_taken_after_its_duration_and_not_before() -> None:
    async with candidates("a", "b") as (server, [first, second]):
        await first.acquire()
        abandoned = clock.monotonic()

        await second.acquire()

        assert clock.monotonic() - abandoned >= SECONDS
        assert server.objects[LEASES]["lull-operator"]["spec"]["leaseTransitions"] == 1


async def test_a_holder_that_cannot_renew_stops_before_another_may_begin() -> None:
    async with candidates("a") as (server, [first]):
        await first.acquire()
        server.is_gone = True
        cut_off = clock.monotonic()

        with pytest.raises(LeaseLost, match="not renewed"):
            await first.keep()

        assert clock.monotonic() - cut_off < SECONDS
        assert not first.is_held


async def test_a_candidate_waits_for_an_api_server_that_does_not_answer() -> None:
    async with candidates("a") as (server, [first]):
        server.is_stuck = True
        taking = asyncio.ensure_future(first.acquire())
        await asyncio.sleep(SECONDS * 1.5)
        assert not taking.done()
        server.is_stuck = False

        await taking

        assert holder_of(server) == "a"


async def test_a_holder_that_finds_another_name_stops() -> None:
    async with candidates("a") as (server, [first]):
        await first.acquire()
        stored = server.objects[LEASES]["lull-operator"]
        await server.put(LEASES, {**stored, "spec": {**stored["spec"], "holderIdentity": "b"}})

        with pytest.raises(LeaseLost, match="b holds it"):
            await first.keep()


async def test_takes_a_lease_that_nobody_has_held_yet() -> None:
    async with candidates("a") as (server, [first]):
        labels = {"app.kubernetes.io/managed-by": "Helm"}
        rendered = {"metadata": {"namespace": "lull-system", "name": "lull-operator", "labels": labels}, "spec": {}}
        await server.put(LEASES, rendered)

        await first.acquire()

        assert holder_of(server) == "a"
        assert server.objects[LEASES]["lull-operator"]["metadata"]["labels"] == labels


async def test_a_holder_whose_lease_is_deleted_stops_at_once_and_makes_no_other() -> None:
    async with candidates("a") as (server, [first]):
        await first.acquire()
        await server.remove(LEASES, "lull-operator")
        deleted = clock.monotonic()

        with pytest.raises(LeaseLost, match="nobody holds it"):
            await first.keep()
        await first.release()

        assert clock.monotonic() - deleted < SECONDS / 2
        assert server.objects[LEASES] == {}


async def test_a_lease_that_was_deleted_is_missed_for_its_duration_before_it_is_made_anew() -> None:
    async with candidates("a", "b") as (server, [first, second]):
        await first.acquire()
        taking = asyncio.ensure_future(second.acquire())
        await asyncio.sleep(SECONDS / 4)
        await server.remove(LEASES, "lull-operator")
        deleted = clock.monotonic()

        await taking

        assert clock.monotonic() - deleted >= SECONDS
        assert holder_of(server) == "b"


async def test_a_short_outage_is_survived() -> None:
    async with candidates("a") as (server, [first]):
        await first.acquire()
        keeping = asyncio.ensure_future(first.keep())
        server.is_gone = True
        await asyncio.sleep(SECONDS / 3)
        server.is_gone = False
        await asyncio.sleep(SECONDS * 1.5)

        assert first.is_held
        assert not keeping.done()
        keeping.cancel()
