"""How requests fare, from the door to what the operator learns of it."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web

from lull.api.llmdeployment import Key, parse_llmdeployment
from lull.core.latencies import find_bucket, find_percentile
from lull.core.learning import Scene, find_need
from lull.core.scaling import Decision, ReplicaCounts, build_policy, decide
from lull.core.signals import ModelService, Sample, parse_sample, sum_demand
from tests.fakes.engine import BODY, Gate, complete, fail, fail_inside_stream, stream, stream_then_die
from tests.unit.gateway.conftest import NAMESPACE
from tests.unit.gateway.test_counting import DONE, EVENT, USAGE, answer, read
from tests.unit.gateway.test_requests import CACHED, add_two

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.unit.gateway.conftest import World

KEY = Key(NAMESPACE, "llama")
QUICK = {"timeToFirstToken": "1h", "timePerOutputToken": "1m"}
"""Whatever the machine, it is kept."""
SLOW = {"timeToFirstToken": "10ms", "timePerOutputToken": "1ms"}


def late(first: float = 0.0, between: float = 0.0) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """As an engine of which each part takes so long."""

    async def say(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(first)
        if not orjson.loads(request[BODY]).get("stream"):
            await asyncio.sleep(between)
            return web.json_response({"object": "chat.completion", "choices": [], "usage": USAGE})
        response = await stream(request, EVENT)
        await asyncio.sleep(between)
        for chunk in (EVENT, b"data: " + orjson.dumps({"choices": [], "usage": USAGE}) + b"\n\n", DONE):
            await response.write(chunk)
        return response

    return say


async def hear(world: World, *, at: float = 0.0) -> Sample:
    async with world.session.get(f"{world.admin}/demand") as response:
        return parse_sample(await response.read(), at=at)


async def tell(world: World, name: str = "llama") -> ModelService:
    service = (await hear(world)).models[Key(NAMESPACE, name)].service
    assert service is not None
    return service


def verdict(service: ModelService) -> tuple[int, int, int]:
    return service.finished, service.met, service.missed


async def serve(world: World, *answers: Any, **spec: Any) -> None:
    world.add_model(**spec)
    for number, one in enumerate(answers):
        await world.add_engine(one, pod=f"pod-{number}")
    await world.wait_listed()


async def test_answers_within_the_slo_meet_it(world: World) -> None:
    await serve(world, answer, slo=QUICK)
    for is_stream in (True, False, True):
        await world.ask(stream=is_stream)

    service = await tell(world)
    counted = await read(world)

    assert verdict(service) == (3, 3, 0)
    assert sum(service.first_token.values()) == 2
    assert sum(service.per_token.values()) == 2
    assert counted["slo_requests_total", "llama", NAMESPACE, "met"] == 3
    assert counted["slo_requests_total", "llama", NAMESPACE, "missed"] == 0


async def test_a_stream_misses_the_slo_where_it_begins_late(world: World) -> None:
    await serve(world, late(first=0.05), slo=QUICK | {"timeToFirstToken": "10ms"})
    await world.ask(stream=True)

    assert verdict(await tell(world)) == (1, 0, 1)


async def test_a_stream_misses_the_slo_where_it_goes_on_slowly(world: World) -> None:
    opened = asyncio.Event()

    async def pause(request: web.BaseRequest) -> web.StreamResponse:
        response = await stream(request, EVENT)
        await opened.wait()
        for chunk in (EVENT, b"data: " + orjson.dumps({"choices": [], "usage": USAGE}) + b"\n\n", DONE):
            await response.write(chunk)
        return response

    await serve(world, pause, slo=QUICK | {"timePerOutputToken": "1ms"})
    async with world.chat(stream=True) as response:
        await response.content.readany()
        await asyncio.sleep(0.05)
        opened.set()
        await response.read()

    assert verdict(await tell(world)) == (1, 0, 1)


@pytest.mark.parametrize(("slo", "met"), [(SLOW, 0), (SLOW | {"timePerOutputToken": "1m"}, 1)])
async def test_a_whole_answer_may_take_as_long_as_its_tokens_in_a_stream(world: World, slo: Any, met: int) -> None:
    """Five tokens: the time to the first, and four times that to a further one."""
    await serve(world, late(first=0.05), slo=slo)
    await world.ask()

    service = await tell(world)

    assert verdict(service) == (1, met, 1 - met)
    # What it took is no time of a token: an engine may be quick, and have many waiting. Of what it might take it is a part.
    (bucket,) = service.whole
    assert (bucket < find_bucket(1.0)) == bool(met)
    assert not service.first_token
    assert not service.per_token


async def test_time_in_line_counts_to_the_first_token(world: World) -> None:
    await serve(world, slo=QUICK | {"timeToFirstToken": "50ms"})
    asked = [asyncio.ensure_future(world.ask(stream=is_stream)) for is_stream in (True, False)]
    await world.settle(held=2)
    await asyncio.sleep(0.1)
    await world.add_engine(late())
    await asyncio.gather(*asked)

    service = await tell(world)

    # Of a whole answer all that counts is its end, and four tokens more have four minutes.
    assert verdict(service) == (2, 1, 1)
    assert (find_percentile(service.first_token, 90) or 0.0) > 0.09


class TestNoAnswers:
    @pytest.mark.parametrize("is_stream", [True, False])
    @pytest.mark.parametrize("status", [400, 404, 422])
    async def test_what_the_client_did_wrong(self, world: World, *, status: int, is_stream: bool) -> None:
        await serve(world, fail(status, "wrong"), slo=QUICK)
        await world.ask(stream=is_stream)

        service = await tell(world)

        # It is finished: arrivals and what engines work off are of the same kind.
        assert verdict(service) == (1, 0, 0)
        assert not service.per_token

    async def test_what_never_came_to_a_model(self, world: World) -> None:
        await serve(world, answer, slo=QUICK)
        async with world.session.post(f"{world.url}/v1/chat/completions", data=b"{") as response:
            assert response.status == 400
        await world.ask(model="other")
        await world.ask()

        assert verdict(await tell(world)) == (1, 1, 0)

    @pytest.mark.parametrize("is_stream", [True, False])
    async def test_what_the_client_left_before_it_began(self, world: World, *, is_stream: bool) -> None:
        gate = Gate()
        await serve(world, gate, slo=SLOW)
        leaving = asyncio.ensure_future(world.ask(stream=is_stream))
        await gate.entered.wait()
        leaving.cancel()
        await world.settle(inFlight=0, arrived=1)

        assert verdict(await tell(world)) == (0, 0, 0)

    async def test_what_the_client_left_in_the_midst_of_it(self, world: World) -> None:
        opened = asyncio.Event()

        async def pause(request: web.BaseRequest) -> web.StreamResponse:
            response = await stream(request, EVENT)
            await opened.wait()
            return response

        await serve(world, pause, slo=SLOW)
        async with world.chat(stream=True) as response:
            await response.content.readany()
            response.close()
        await world.settle(inFlight=0, arrived=1)
        service = await tell(world)
        opened.set()

        assert verdict(service) == (1, 0, 0)
        assert sum(service.first_token.values()) == 1

    @pytest.mark.parametrize(
        "engine", [fail(500, "a fault"), fail_inside_stream(500, "a fault"), stream_then_die(EVENT)]
    )
    async def test_what_failed(self, world: World, engine: Any) -> None:
        await serve(world, engine, slo=SLOW)
        await world.ask(stream=True)

        assert verdict(await tell(world)) == (0, 0, 0)

    async def test_what_was_remembered(self, world: World) -> None:
        await serve(world, answer, slo=QUICK, **CACHED)
        for _ in range(3):
            await world.ask(temperature=0)

        assert verdict(await tell(world)) == (1, 1, 0)

    async def test_an_answer_of_which_nobody_knows_how_long_it_is(self, world: World) -> None:
        await serve(world, complete, slo=SLOW)
        await world.ask()

        assert verdict(await tell(world)) == (1, 0, 0)


async def test_what_found_no_capacity_missed_the_slo(world: World) -> None:
    await serve(world, slo=QUICK, queue={"maxHeld": 1})
    async with world.session.post(
        f"{world.url}/v1/chat/completions", json={"model": "llama"}, headers={"x-lull-timeout": "0"}
    ) as response:
        assert response.status == 503
    waiting = asyncio.ensure_future(world.ask())
    await world.settle(held=1)
    assert (await world.ask())[0] == 429
    await world.add_engine(answer)
    await waiting

    assert verdict(await tell(world)) == (1, 1, 2)


async def test_who_answers_instead_is_judged_by_its_own_slo(world: World) -> None:
    world.add_model("llama", slo=SLOW, fallback=["small"])
    world.add_model("small", slo=QUICK)
    await world.add_engine(late(first=0.05), pod="small-1", model="small")
    await world.wait_listed("small")
    await world.ask(stream=True)

    assert verdict(await tell(world)) == (0, 0, 0)
    assert verdict(await tell(world, "small")) == (1, 1, 0)


async def test_engines_that_are_asked_and_have_not_begun_are_reading(world: World) -> None:
    gate = Gate()
    await serve(world, gate, gate)
    asked = asyncio.ensure_future(world.ask(stream=True))
    await gate.entered.wait()
    await hear(world)

    async with asyncio.timeout(30):
        while (reading := (await tell(world)).reading) is None:  # noqa: ASYNC110  time itself is waited for
            await asyncio.sleep(0.1)

    assert reading == pytest.approx(0.5, abs=0.02)
    gate.opened.set()
    await asked


async def test_a_change_of_the_slo_counts_from_then_on(world: World) -> None:
    await serve(world, late(first=0.05), slo=QUICK)
    await world.ask(stream=True)
    world.add_model(slo=SLOW)

    async with asyncio.timeout(10):
        while not (await tell(world)).missed:
            await world.ask(stream=True)

    assert (await tell(world)).met >= 1


async def test_an_older_operator_finds_all_that_it_knows(world: World) -> None:
    await serve(world, answer)
    await world.ask()

    (model,) = (await world.demand())["models"].values()

    assert {name: type(model[name]) for name in ("held", "heldBytes", "inFlight", "arrived", "sinceLast")} == {
        "held": int,
        "heldBytes": int,
        "inFlight": int,
        "arrived": int,
        "sinceLast": float,
    }


async def test_a_restarted_gateway_counts_from_nothing(running: Any) -> None:
    boots = set()
    for _ in range(2):
        async with running() as world:
            await serve(world, answer)
            await world.ask()
            assert verdict(await tell(world))[0] == 1
            boots.add((await hear(world)).boot)

    assert len(boots) == 2


class TestLearning:
    """The operator learns from gateways' answers what a replica carries; its clock runs faster than theirs."""

    LLM = parse_llmdeployment(
        {
            "metadata": {
                "namespace": NAMESPACE,
                "name": "llama",
                "uid": "llama",
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            # No engine here is as quick, so that the least load is one that tells.
            "spec": {"model": {"source": "hf://org/model"}, "slo": {"timePerOutputToken": "1ms"}},
        }
    )

    async def watch(self, worlds: list[World], *, looks: int, before: Decision | None = None) -> Decision:
        """Ten seconds of the operator's between two looks, in which each gateway has three requests."""
        decision, now = before, 0.0 if before is None else before.history.troughs[-1].at
        for _ in range(looks):
            now += 10.0
            await asyncio.gather(
                *(world.ask(stream=is_stream) for world in worlds for is_stream in (True, True, False))
            )
            samples = [await hear(world, at=now) for world in worlds]
            decision = decide(
                build_policy(self.LLM.spec),
                sum_demand(KEY, samples, now=now, stale_after=5.0),
                ReplicaCounts(asked=1, ready=1, loading=0, ready_at=0.0),
                history=None if decision is None else decision.history,
                now=now,
                wall=0.0,
            )
        assert decision is not None
        return decision

    async def test_from_two_gateways_one_of_which_begins_anew(self, running: Any) -> None:
        async with AsyncExitStack() as stack:
            worlds = [await stack.enter_async_context(running(pod_name=f"gateway-{number}")) for number in range(2)]
            for world in worlds:
                await serve(world, late(first=0.01, between=0.02), slo={"timePerOutputToken": "1ms"})
            decision = await self.watch(worlds, looks=40)
            learnt = decision.history.knowledge
            assert learnt is not None
            assert learnt.is_known
            assert learnt.slow == pytest.approx(0.6, rel=0.05)
            assert (learnt.service.met or 0) + (learnt.service.missed or 0) == learnt.service.finished == 240
            need = find_need(learnt, Scene(learnt.at, ready=1, held=0), cold_start=None)
            assert need is not None
            assert need.lasting * learnt.capacity >= 0.6

            worlds[0] = await stack.enter_async_context(running(pod_name="gateway-2"))
            await serve(worlds[0], late(first=0.01, between=0.02), slo={"timePerOutputToken": "1ms"})
            decision = await self.watch(worlds, looks=3, before=decision)

        again = decision.history.knowledge
        assert again is not None
        assert again.is_known
        assert again.service.epoch != learnt.service.epoch
        # What the gateway that is gone counted is not taken for what is missing since.
        assert again.slow == pytest.approx(0.6, rel=0.05)
        assert again.served == pytest.approx(0.6, rel=0.05)

    async def test_not_from_an_older_gateway(self, world: World) -> None:
        await serve(world, answer)
        await world.ask()
        content = await world.demand()
        for model in content["models"].values():
            del model["service"]
        sample = parse_sample(json.dumps(content).encode(), at=0.0)

        demand = sum_demand(KEY, [sample], now=0.0, stale_after=5.0)

        assert demand is not None
        assert demand.service is None


async def test_a_model_that_is_gone_is_told_no_more(world: World) -> None:
    small = await add_two(world)
    await world.ask(model="small")
    assert small.received

    world.kube.remove("llmdeployments", NAMESPACE, "small")

    async with asyncio.timeout(5):
        while f"{NAMESPACE}/small" in (await world.demand())["models"]:  # noqa: ASYNC110  what is waited for happens behind a socket
            await asyncio.sleep(0.01)
    assert not any("small" in series for series in await read(world))
