"""Adapters as model names: listed, routed to engines that have them, waited for where none has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from tests.fakes.engine import BODY, FakeEngine, Gate, complete
from tests.unit.gateway.conftest import NAMESPACE

if TYPE_CHECKING:
    from tests.unit.gateway.conftest import World


class Engine:
    """Says which adapters it has, and answers for those and for the model."""

    def __init__(self, *adapters: str, lies: bool = False) -> None:
        self.adapters = set(adapters)
        self.lies = lies
        """It lists what it does not have: it has just restarted, and was asked before that."""
        self.listings = 0
        self.answered: list[str] = []
        self.hold: Gate | None = None

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v1/models":
            self.listings += 1
            cards = [{"id": "llama", "root": "/models/model", "parent": None}]
            cards += [{"id": name, "root": f"/adapters/{name}", "parent": "llama"} for name in self.adapters]
            return web.json_response({"object": "list", "data": cards})
        model = orjson.loads(request[BODY])["model"]
        if model != "llama" and (model not in self.adapters or self.lies):
            error = {"message": f"The model `{model}` does not exist.", "type": "NotFoundError", "code": 404}
            return web.json_response({"error": error}, status=404)
        self.answered.append(model)
        if self.hold is not None:
            return await self.hold(request)
        return await complete(request)


def listing(*names: str) -> dict[str, Any]:
    return {"adapters": {"items": [{"name": name, "source": f"hf://lull/{name}"} for name in names]}}


async def add(world: World, engine: Engine, *, pod: str = "pod-1", ready: bool = True) -> FakeEngine:
    return await world.add_engine(engine, pod=pod, ready=ready)


def put_status(world: World, *adapters: dict[str, Any], generation: int = 1, observed: int = 1) -> None:
    """The LLMDeployment with the adapter `fr`, as the operator has written its status."""
    world.kube.put(
        "llmdeployments",
        {
            "metadata": {
                "namespace": NAMESPACE,
                "name": "llama",
                "uid": "llama",
                "generation": generation,
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"model": {"source": "hf://org/model"}, **listing("fr")},
            "status": {"observedGeneration": observed, "adapters": list(adapters)},
        },
    )


FAILED = {"name": "fr", "state": "Failed", "readyReplicas": 0, "message": "Its rank 64 is over 16."}


async def test_adapters_are_listed_like_vllm_lists_them(world: World) -> None:
    world.add_model(**listing("fr"))
    await world.wait_listed("fr")

    async with world.session.get(f"{world.url}/v1/models") as response:
        cards = {card["id"]: card for card in (await response.json())["data"]}

    assert cards["llama"] | {"root": "hf://org/model", "parent": None} == cards["llama"]
    assert cards["fr"] | {"root": "hf://lull/fr", "parent": "llama", "object": "model"} == cards["fr"]


async def test_a_request_goes_to_the_engine_that_has_the_adapter(world: World) -> None:
    world.add_model(**listing("fr"))
    with_it, without = Engine("fr"), Engine()
    await add(world, with_it, pod="pod-1")
    await add(world, without, pod="pod-2")
    await world.wait_listed("fr")

    for _ in range(4):
        assert (await world.ask(model="fr"))[0] == 200

    assert with_it.answered == ["fr"] * 4
    assert without.answered == []


async def test_the_model_itself_is_every_engines(world: World) -> None:
    world.add_model(**listing("fr"))
    engines = Engine("fr"), Engine()
    for number, engine in enumerate(engines):
        await add(world, engine, pod=f"pod-{number}")
    await world.wait_listed("fr")

    for _ in range(4):
        assert (await world.ask())[0] == 200

    assert all(engine.answered for engine in engines)


async def test_a_request_waits_until_an_engine_has_loaded_the_adapter(world: World) -> None:
    world.add_model(**listing("fr"))
    engine = Engine()
    await add(world, engine)
    await world.wait_listed("fr")

    asked = asyncio.create_task(world.ask(model="fr"))
    await world.settle(held=1)
    # It does not stand in the way of those who want the model.
    assert (await world.ask())[0] == 200
    assert (await world.demand())["models"][f"{NAMESPACE}/llama"]["held"] == 1
    engine.adapters.add("fr")

    assert (await asked)[0] == 200
    assert engine.answered == ["llama", "fr"]


async def test_a_cold_model_is_woken_for_its_adapter(world: World) -> None:
    world.add_model(**listing("fr"))
    await world.wait_listed("fr")

    asked = asyncio.create_task(world.ask(model="fr"))
    await world.settle(held=1)
    await add(world, Engine("fr"))

    assert (await asked)[0] == 200


async def test_an_engine_that_lost_the_adapter_is_no_ones_error(world: World) -> None:
    world.add_model(**listing("fr"))
    restarted, other = Engine("fr", lies=True), Engine("fr")
    await add(world, restarted, pod="pod-1")
    await add(world, other, pod="pod-2")
    await world.wait_listed("fr")

    answers = [await world.ask(model="fr") for _ in range(4)]

    assert [status for status, _ in answers] == [200] * 4
    assert other.answered == ["fr"] * 4


async def test_where_it_was_the_only_one_the_request_waits_for_it(world: World) -> None:
    world.add_model(**listing("fr"))
    engine = Engine("fr", lies=True)
    await add(world, engine)
    await world.wait_listed("fr")

    asked = asyncio.create_task(world.ask(model="fr"))
    await world.settle(arrived=1)
    await asyncio.sleep(0.3)
    assert not asked.done()
    engine.lies = False

    assert (await asked)[0] == 200
    async with world.session.get(f"{world.admin}/metrics") as response:
        assert 'reason="no_adapter"' in await response.text()


async def test_any_other_404_is_the_clients(world: World) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v1/models":
            return await Engine("fr")(request)
        return web.json_response({"detail": "Not Found"}, status=404)

    world.add_model(**listing("fr"))
    await world.add_engine(answer)
    await world.wait_listed("fr")

    assert await world.ask(model="fr") == (404, b'{"detail": "Not Found"}')


async def test_an_adapter_that_nobody_loads_in_time_says_so(world: World) -> None:
    world.add_model(**listing("fr"), queue={"holdFor": "1s"})
    await add(world, Engine())
    await world.wait_listed("fr")

    async with world.chat(model="fr") as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"]) == (503, "adapter_not_loaded")
    assert "Retry-After" in response.headers
    assert "`fr`" in error["message"]


async def test_an_adapter_that_cannot_be_loaded_is_refused_at_once(world: World) -> None:
    put_status(world, FAILED)
    await add(world, Engine())
    await world.wait_listed("fr")

    async with world.chat(model="fr") as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"]) == (503, "adapter_failed")
    assert response.headers["x-should-retry"] == "false"
    assert "Its rank 64 is over 16." in error["message"]
    assert (await world.ask())[0] == 200


async def test_those_who_wait_for_it_are_told_when_it_turns_out_so(world: World) -> None:
    put_status(world)
    await add(world, Engine())
    await world.wait_listed("fr")
    asked = asyncio.create_task(world.ask(model="fr"))
    await world.settle(held=1)

    put_status(world, FAILED)

    status, body = await asked
    assert (status, orjson.loads(body)["error"]["code"]) == (503, "adapter_failed")


async def test_a_failure_of_an_earlier_spec_does_not_count(world: World) -> None:
    put_status(world, FAILED, generation=2, observed=1)
    engine = Engine()
    await add(world, engine)
    await world.wait_listed("fr")

    asked = asyncio.create_task(world.ask(model="fr"))
    await world.settle(held=1)
    engine.adapters.add("fr")

    assert (await asked)[0] == 200


async def test_where_one_engine_has_it_a_failure_elsewhere_does_not_count(world: World) -> None:
    put_status(world, {**FAILED, "readyReplicas": 1})
    await world.wait_listed("fr")
    engine = Engine("fr")
    await add(world, engine)
    await world.until(lambda: engine.listings)

    assert (await world.ask(model="fr"))[0] == 200


async def test_what_is_taken_out_is_unknown_also_to_those_who_wait(world: World) -> None:
    world.add_model(**listing("fr"))
    await add(world, Engine())
    await world.wait_listed("fr")
    asked = asyncio.create_task(world.ask(model="fr"))
    await world.settle(held=1)

    world.add_model(**listing())

    assert (await asked)[0] == 404
    assert (await world.ask(model="fr"))[0] == 404
    assert (await world.ask())[0] == 200


async def test_requests_are_counted_by_adapters_that_are_listed(world: World) -> None:
    world.add_model(**listing("fr"))
    await add(world, Engine("fr"))
    await world.wait_listed("fr")
    await world.ask(model="fr")
    await world.ask(model="unheard-of")

    async def exposed() -> list[str]:
        async with world.session.get(f"{world.admin}/metrics") as response:
            text = await response.text()
        return [line for line in text.splitlines() if line.startswith("lull_gateway_adapter_requests_total")]

    (line,) = await exposed()
    assert line == ('lull_gateway_adapter_requests_total{adapter="fr",code="200",name="llama",namespace="team-a"} 1.0')
    world.add_model(**listing())
    async with asyncio.timeout(5):
        while await exposed():  # noqa: ASYNC110  what is waited for happens behind a socket
            await asyncio.sleep(0.01)


async def test_engines_without_adapters_are_asked_nothing(world: World) -> None:
    world.add_model()
    engine = Engine()
    await add(world, engine)
    await world.wait_listed()
    assert (await world.ask())[0] == 200

    assert engine.listings == 0


async def test_an_engine_that_is_not_ready_any_more_has_to_say_it_again(world: World) -> None:
    world.add_model(**listing("fr"))
    engine = Engine("fr")
    served = await add(world, engine)
    await world.wait_listed("fr")
    assert (await world.ask(model="fr"))[0] == 200

    world.put_pod(served, pod="pod-1", ready=False)
    asked = asyncio.create_task(world.ask(model="fr"))
    await world.settle(held=1)
    engine.adapters.clear()
    before = engine.listings
    world.put_pod(served, pod="pod-1")
    await world.until(lambda: engine.listings > before)
    assert not asked.done()
    engine.adapters.add("fr")

    assert (await asked)[0] == 200


async def test_a_busy_engine_keeps_each_in_its_line(world: World) -> None:
    world.add_model(**listing("fr"), engine={"maxNumSeqs": 1})
    busy, other = Engine("fr"), Engine()
    busy.hold = Gate()
    await add(world, busy, pod="pod-1")
    await world.wait_listed("fr")
    running = [asyncio.create_task(world.ask(model="fr")) for _ in range(2)]
    await world.settle(inFlight=2)
    waiting = asyncio.create_task(world.ask(model="fr"))
    await world.settle(held=1)

    await add(world, other, pod="pod-2")
    assert (await world.ask())[0] == 200
    assert other.answered == ["llama"]
    assert not waiting.done()
    busy.hold.opened.set()

    assert [status for status, _ in await asyncio.gather(*running, waiting)] == [200] * 3
