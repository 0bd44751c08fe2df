"""Fallbacks, routes, kept answers and continued streams, over real sockets."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest
from aiohttp import web

from lull.core.answers import MAX_RECORDINGS
from lull.core.keys import make_token
from tests.fakes.engine import BODY, CHUNKS, Gate, die, fail, stream, stream_then_die
from tests.unit.gateway.test_access import TOKEN, answering, entry, put_keys, wait_keys
from tests.unit.gateway.test_access import ask as ask_as

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fakes.engine import FakeEngine
    from tests.unit.gateway.conftest import World

    Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

CACHED: Final[dict[str, Any]] = {"requests": {"cache": {"ttl": "1m"}}}
WILLING: Final[dict[str, Any]] = {"requests": {"continueStreams": True}}
DEAD: Final = {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}


def asked(engine: FakeEngine) -> list[dict[str, Any]]:
    return [orjson.loads(one.body) for one in engine.received]


def says(text: str, *, id_: str = "one", **delta: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text, **delta}, "finish_reason": None}
    return b"data: %b\n\n" % orjson.dumps({"id": id_, "created": 1 if id_ == "one" else 2, "choices": [choice]})


def ends(*, id_: str = "one") -> bytes:
    choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return b"data: %b\n\n" % orjson.dumps({"id": id_, "created": 2, "choices": [choice]}) + b"data: [DONE]\n\n"


def goes_on(*texts: str) -> Answer:
    """As vLLM continues a message: under an id of its own, the role first."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        first = says("", id_="two", role="assistant")
        return await stream(request, first, *(says(text, id_="two") for text in texts), ends(id_="two"))

    return answer


def read(body: bytes) -> tuple[str, set[str], bool, dict[str, Any] | None]:
    """Text, ids, whether it ends with [DONE], and the error."""
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: ")]
    chunks = [orjson.loads(line) for line in lines if line != b"[DONE]"]
    text = "".join(
        choice["delta"].get("content") or "" for chunk in chunks if "choices" in chunk for choice in chunk["choices"]
    )
    error = next((chunk["error"] for chunk in chunks if "error" in chunk), None)
    return text, {chunk["id"] for chunk in chunks if "id" in chunk}, lines[-1] == b"[DONE]", error


async def add_two(world: World, **spec: Any) -> FakeEngine:
    """A model, and a small one with an engine."""
    world.add_model("llama", **spec)
    world.add_model("small")
    small = await world.add_engine(pod="small-1", model="small")
    await world.wait_listed("small")
    return small


class TestFallback:
    async def test_another_model_answers_while_this_one_sleeps_and_this_one_is_to_wake(self, world: World) -> None:
        small = await add_two(world, fallback=["small"])
        before = (await world.demand())["sequence"]

        async with world.chat(seed=1.5) as response:
            assert response.status == 200
            assert response.headers["x-lull-model"] == "small"

        (body,) = asked(small)
        assert (body["model"], body["seed"]) == ("small", 1.5)
        demand = await world.demand()
        assert demand["sequence"] > before
        assert demand["models"]["team-a/llama"] | {"sinceLast": 0, "service": {}} == {
            "held": 0,
            "heldBytes": 0,
            "inFlight": 0,
            "arrived": 1,
            "sinceLast": 0,
            "service": {},
        }

    async def test_a_model_that_is_up_answers_for_itself(self, world: World) -> None:
        small = await add_two(world, fallback=["small"])
        await world.add_engine()
        await asyncio.sleep(0.05)

        async with world.chat() as response:
            assert response.status == 200
            assert "x-lull-model" not in response.headers
        assert small.received == []

    async def test_what_finds_no_place_goes_to_the_fallback(self, world: World) -> None:
        gate = Gate()
        small = await add_two(world, fallback=["small"], queue={"maxHeld": 0}, engine={"maxNumSeqs": 1})
        await world.add_engine(gate)
        await world.wait_listed()
        async with asyncio.TaskGroup() as group:
            busy = [group.create_task(world.ask()) for _ in range(2)]
            await world.settle(inFlight=2)

            async with world.chat() as response:
                assert response.status == 200
                assert response.headers["x-lull-model"] == "small"
            gate.opened.set()

        assert len(small.received) == 1
        assert [task.result()[0] for task in busy] == [200, 200]

    async def test_what_waited_in_vain_goes_to_a_fallback_that_came_meanwhile(self, world: World) -> None:
        world.add_model(fallback=["small"], queue={"holdFor": "1s"})
        world.add_model("small")
        await world.wait_listed("small")
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(world.ask())
            await world.settle(held=1)
            small = await world.add_engine(pod="small-1", model="small")

        assert waiting.result()[0] == 200
        assert len(small.received) == 1
        await world.settle(held=0, inFlight=0)

    async def test_a_fallback_that_was_named_meanwhile_knows_all_that_was_asked(self, world: World) -> None:
        world.add_model(queue={"holdFor": "1s"})
        world.add_model("small", **WILLING)
        first = await world.add_engine(stream_then_die(says("a")), pod="small-1", model="small")
        await world.wait_listed("small")
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(world.ask(stream=True))
            await world.settle(held=1)
            world.add_model(queue={"holdFor": "1s"}, fallback=["small"])
            await world.until(lambda: first.received)
            await world.add_engine(goes_on("b"), pod="small-2", model="small")

        assert read(waiting.result()[1]) == ("ab", {"one"}, True, None)

    async def test_what_engines_fail_with_goes_to_the_fallback(self, running: Any) -> None:
        async with running(max_tries=1) as world:
            small = await add_two(world, fallback=["small"])
            broken = await world.add_engine(die)
            await asyncio.sleep(0.05)

            status, _ = await world.ask()

            assert status == 200
            assert (len(broken.received), len(small.received)) == (1, 1)
            await world.settle(held=0, inFlight=0)

    async def test_a_fallback_that_fails_too_ends_it(self, running: Any) -> None:
        async with running(max_tries=1) as world:
            world.add_model(fallback=["small"])
            world.add_model("small")
            engines = [await world.add_engine(die), await world.add_engine(die, pod="small-1", model="small")]
            await world.wait_listed("small")

            status, body = await world.ask()

            assert (status, orjson.loads(body)["error"]["code"]) == (502, "engine_failed")
            assert [len(engine.received) for engine in engines] == [1, 1]

    async def test_what_is_wrong_with_the_request_is_told_at_once(self, world: World) -> None:
        small = await add_two(world, fallback=["small"])
        await world.add_engine(fail(400, "too long"))
        await asyncio.sleep(0.05)

        assert (await world.ask())[0] == 400
        assert small.received == []

    async def test_short_prompts_go_to_the_small_model_first(self, world: World) -> None:
        small = await add_two(world, routes=[{"model": "small", "maxPromptTokens": 100}])
        large = await world.add_engine()
        await asyncio.sleep(0.05)

        await world.ask("short")
        await world.ask("long " * 200)

        assert (len(small.received), len(large.received)) == (1, 1)
        assert asked(large)[0]["model"] == "llama"

    async def test_what_the_small_model_cannot_do_the_large_one_does(self, running: Any) -> None:
        async with running(max_tries=1) as world:
            world.add_model(routes=[{"model": "small", "maxPromptTokens": 100}])
            world.add_model("small")
            await world.add_engine(die, pod="small-1", model="small")
            large = await world.add_engine()
            await world.wait_listed("small")

            async with world.chat() as response:
                assert response.status == 200
                assert "x-lull-model" not in response.headers
            assert asked(large)[0]["model"] == "llama"


class TestKeys:
    async def test_a_key_gets_no_fallback_that_it_may_not_use(self, world: World) -> None:
        other = make_token("team-b", random.choice)
        put_keys(world, team_a=entry(models=["llama", "small"]), team_b=entry(other, models=["llama"]))
        small = await add_two(world, fallback=["small"])
        await wait_keys(world)

        async with ask_as(world) as response:
            assert response.status == 200
        async with ask_as(world, other, headers={"x-lull-timeout": "0.1"}) as response:
            assert response.status == 503

        assert len(small.received) == 1

    async def test_answers_are_kept_for_one_key_and_cost_it_no_tokens(self, world: World) -> None:
        other = make_token("team-b", random.choice)
        put_keys(world, team_a=entry(tokensPerMinute=1000), team_b=entry(other))
        world.add_model(**CACHED)
        engine = await world.add_engine(answering(10, 5))
        await world.wait_listed()
        await wait_keys(world)

        answers = []
        for token in (TOKEN, other, TOKEN):
            async with ask_as(world, token, temperature=0) as response:
                answers.append(
                    (response.headers["x-lull-cache"], response.headers.get("x-ratelimit-remaining-tokens", ""))
                )
                await response.read()
        async with ask_as(world, temperature=0, headers={"x-lull-cache": "skip"}) as response:
            left = int(response.headers["x-ratelimit-remaining-tokens"])

        assert [how for how, _ in answers] == ["miss", "miss", "hit"]
        assert len(engine.received) == 3
        # The same is set aside for the same request, so that the one between has used nothing.
        assert left >= int(answers[-1][1])


class TestCache:
    async def test_the_same_question_is_answered_from_memory(self, world: World) -> None:
        world.add_model(**CACHED)
        engine = await world.add_engine()
        await world.wait_listed()

        answers = []
        for _ in range(2):
            async with world.chat(temperature=0) as response:
                answers.append((response.headers["x-lull-cache"], response.content_type, await response.read()))

        assert [how for how, *_ in answers] == ["miss", "hit"]
        assert answers[0][1:] == answers[1][1:]
        assert len(engine.received) == 1
        await world.settle(inFlight=0, arrived=1)

    async def test_streams_are_told_again_whole(self, world: World) -> None:
        world.add_model(**CACHED)
        engine = await world.add_engine()
        await world.wait_listed()

        first = await world.ask(temperature=0, stream=True)
        async with world.chat(temperature=0, stream=True) as response:
            assert response.headers["x-lull-cache"] == "hit"
            assert response.content_type == "text/event-stream"
            second = await response.read()

        assert (200, second) == first
        assert second == b"".join(CHUNKS)
        assert len(engine.received) == 1

    async def test_what_is_not_deterministic_is_asked_each_time(self, world: World) -> None:
        world.add_model(**CACHED)
        engine = await world.add_engine()
        await world.wait_listed()

        for _ in range(2):
            async with world.chat(temperature=0.5) as response:
                assert "x-lull-cache" not in response.headers

        assert len(engine.received) == 2

    async def test_a_request_may_ask_for_it_or_go_round_it(self, world: World) -> None:
        world.add_model(requests={"cache": {"when": "OnRequest"}})
        engine = await world.add_engine()
        await world.wait_listed()

        async def ask(wish: str) -> str | None:
            body = {"model": "llama", "messages": []}
            url = f"{world.url}/v1/chat/completions"
            async with world.session.post(url, json=body, headers={"x-lull-cache": wish}) as response:
                await response.read()
                return response.headers.get("x-lull-cache")

        assert [await ask(wish) for wish in ("use", "use", "skip")] == ["miss", "hit", None]
        assert len(engine.received) == 2
        assert "x-lull-cache" not in engine.received[0].headers

    @pytest.mark.parametrize("answer", [fail(400, "no"), stream_then_die(CHUNKS[0])], ids=["refused", "broken"])
    async def test_only_whole_answers_are_kept(self, world: World, answer: Answer) -> None:
        world.add_model(**CACHED)
        engine = await world.add_engine(answer)
        await world.wait_listed()

        for _ in range(2):
            await world.ask(temperature=0, stream=True)

        assert len(engine.received) == 2

    async def test_another_revision_forgets(self, world: World) -> None:
        world.add_model(**CACHED)
        engine = await world.add_engine()
        await world.wait_listed()
        await world.ask(temperature=0)

        world.add_model(**CACHED, engine={"maxModelLen": 4096}, model={"source": "hf://org/model", "aliases": ["b"]})
        await world.wait_listed('"b"')
        await world.ask(temperature=0)

        assert len(engine.received) == 2

    async def test_answers_beyond_a_number_are_passed_on_and_not_written_down(self, world: World) -> None:
        gate = Gate()
        world.add_model(**CACHED, engine={"maxNumSeqs": MAX_RECORDINGS + 1})
        engine = await world.add_engine(gate)
        await world.wait_listed()
        asked = [str(number) for number in range(MAX_RECORDINGS + 1)]

        async with asyncio.TaskGroup() as group:
            for content in asked:
                group.create_task(world.ask(content, temperature=0))
            await world.until(lambda: len(engine.received) == len(asked))
            gate.opened.set()
        for content in asked * 2:
            await world.ask(content, temperature=0)

        # All but one were kept at first; that one was kept when it came again.
        assert len(engine.received) == len(asked) + 1

    async def test_turning_it_off_forgets(self, world: World) -> None:
        world.add_model(**CACHED)
        engine = await world.add_engine()
        await world.wait_listed()
        await world.ask(temperature=0)

        world.add_model(aliases=("off",))
        await world.wait_listed('"off"')
        async with world.chat(temperature=0) as response:
            assert "x-lull-cache" not in response.headers

        assert len(engine.received) == 2


class TestContinuing:
    async def test_a_stream_whose_engine_dies_goes_on_at_another(self, world: World) -> None:
        world.add_model(**WILLING)
        first = await world.add_engine(stream_then_die(says("", role="assistant"), says("Be"), says("cause ")))
        await world.wait_listed()
        async with asyncio.TaskGroup() as group:
            client = group.create_task(world.ask(stream=True, max_tokens=9))
            await world.until(lambda: first.received)
            second = await world.add_engine(goes_on(" it", " is."), pod="pod-2")

        status, body = client.result()
        assert status == 200
        assert read(body) == ("Because it is.", {"one"}, True, None)
        (request,) = asked(second)
        assert request["messages"][-1] == {"role": "assistant", "content": "Because"}
        assert (request["continue_final_message"], request["add_generation_prompt"]) == (True, False)
        assert request["max_tokens"] == 7
        await world.settle(held=0, inFlight=0)

    async def test_an_engine_may_say_itself_that_it_is_dead(self, world: World) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            if orjson.loads(request[BODY]).get("continue_final_message"):
                return await goes_on("b")(request)
            return await stream(
                request, says("a"), says(" ") + b"data: " + orjson.dumps(DEAD) + b"\n\ndata: [DONE]\n\n"
            )

        world.add_model(**WILLING)
        for pod in ("pod-1", "pod-2"):
            await world.add_engine(answer, pod=pod)
        await world.wait_listed()

        assert read((await world.ask(stream=True))[1]) == ("a b", {"one"}, True, None)

    async def test_an_engine_that_falls_silent_counts_as_dead(self, world: World) -> None:
        gate = Gate()

        async def freeze(request: web.BaseRequest) -> web.StreamResponse:
            response = await stream(request, says("a"))
            await gate.opened.wait()
            return response

        world.add_model(requests={"continueStreams": True, "timeouts": {"betweenChunks": "1s"}})
        first = await world.add_engine(freeze)
        await world.wait_listed()
        async with asyncio.TaskGroup() as group:
            client = group.create_task(world.ask(stream=True))
            await world.until(lambda: first.received)
            await world.add_engine(goes_on("b"), pod="pod-2")

        assert read(client.result()[1]) == ("ab", {"one"}, True, None)

    async def test_it_ends_in_an_error_when_too_many_die(self, running: Any) -> None:
        async with running(max_tries=3) as world:
            world.add_model(**WILLING)
            engines = [await world.add_engine(stream_then_die(says("a")), pod=f"pod-{at}") for at in range(4)]
            await world.wait_listed()

            text, ids, is_done, error = read((await world.ask(stream=True))[1])

            assert (text, ids, is_done) == ("aaa", {"one"}, False)
            assert error is not None
            assert error["code"] == "engine_failed"
            assert sum(len(engine.received) for engine in engines) == 3

    @pytest.mark.parametrize(
        ("spec", "fields"), [(WILLING, {"tools": [{}]}), (WILLING, {"n": 2}), (WILLING, {"logprobs": True}), ({}, {})]
    )
    async def test_what_must_not_be_continued_ends_with_an_error(
        self, world: World, spec: dict[str, Any], fields: dict[str, Any]
    ) -> None:
        world.add_model(**spec)
        engines = [await world.add_engine(stream_then_die(says("a")), pod=f"pod-{at}") for at in range(2)]
        await world.wait_listed()

        text, _, is_done, error = read((await world.ask(stream=True, **fields))[1])

        assert (text, is_done) == ("a", False)
        assert error is not None
        assert sum(len(engine.received) for engine in engines) == 1
