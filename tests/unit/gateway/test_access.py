"""Keys and limits, as clients meet them: over real sockets, with the official client where it has an opinion."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import openai
import orjson
import pytest
from aiohttp import web

from lull.core.keys import digest_of, make_token
from tests.fakes.engine import BODY, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.gateway.conftest import World

NAMESPACE = "lull-system"
SECRET = "lull-gateway-keys"
TOKEN = make_token("team-a", random.choice)
CHUNK = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'


def put_keys(world: World, **keys: Any) -> None:
    """Store keys by id; underscores stand for hyphens."""
    data = {
        id_.replace("_", "-"): base64.b64encode(
            (json.dumps(entry) if isinstance(entry, dict) else entry).encode()
        ).decode()
        for id_, entry in keys.items()
    }
    world.kube.put("secrets", {"metadata": {"namespace": NAMESPACE, "name": SECRET, "uid": SECRET}, "data": data})


def entry(token: str = TOKEN, **fields: Any) -> dict[str, Any]:
    return {"sha256": digest_of(token), **fields}


async def wait_keys(world: World, *, token: str = TOKEN, status: int = 200) -> None:
    """Until the gateway answers so to whoever has the key."""
    async with asyncio.timeout(5):
        while await list_models(world, token) != status:  # noqa: ASYNC110  the condition is behind a socket
            await asyncio.sleep(0.005)


async def wait_model(world: World, name: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with asyncio.timeout(5):
        while True:
            async with world.session.get(f"{world.url}/v1/models/{name}", headers=headers) as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.005)


async def list_models(world: World, token: str | None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    async with world.session.get(f"{world.url}/v1/models", headers=headers) as response:
        await response.read()
        return response.status


def ask(world: World, token: str | None = TOKEN, *, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"model": "llama", "messages": [{"role": "user", "content": "hi"}], **fields}
    given = {"Authorization": f"Bearer {token}"} if token is not None else {}
    return world.session.post(f"{world.url}/v1/chat/completions", json=body, headers={**given, **(headers or {})})


async def refused(response: Any) -> tuple[int, dict[str, Any]]:
    async with response as answer:
        return answer.status, (await answer.json())["error"]


def answering(prompt: int, completion: int) -> Any:
    """An engine that counts so many tokens."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        if orjson.loads(request[BODY]).get("stream"):
            last = b"data: " + orjson.dumps({"choices": [], "usage": usage}) + b"\n\n"
            return await stream(request, CHUNK, last, b"data: [DONE]\n\n")
        return web.json_response({"object": "chat.completion", "choices": [], "usage": usage})

    return answer


@pytest.fixture
async def locked(running: Any) -> AsyncIterator[World]:
    """A gateway that lets nobody in without a key, and knows one."""
    async with running(keys_required=True) as world:
        put_keys(world, team_a=entry())
        world.add_model()
        await wait_keys(world)
        await world.add_engine(answering(10, 5))
        yield world


class TestAuthenticating:
    async def test_whoever_has_a_key_is_let_in(self, locked: World) -> None:
        async with ask(locked) as response:
            assert response.status == 200
        async with ask(locked, None, headers={"x-api-key": TOKEN}) as response:
            assert response.status == 200

    async def test_all_others_are_told_the_same(self, locked: World) -> None:
        stranger = make_token("nobody", random.choice)
        wrong = make_token("team-a", random.choice)
        old = make_token("old", random.choice)
        put_keys(locked, team_a=entry(), old=entry(old, expires="2001-01-01T00:00:00Z"))

        answers = []
        for headers in (
            {},
            {"Authorization": "Bearer "},
            {"Authorization": f"Bearer {stranger}"},
            {"Authorization": f"Bearer {wrong}"},
            {"Authorization": f"Bearer {old}"},
            {"Authorization": f"Basic {TOKEN}"},
            {"x-api-key": stranger},
        ):
            async with ask(locked, None, headers=headers) as response:
                assert response.headers["WWW-Authenticate"] == "Bearer"
                answers.append((response.status, await response.read()))

        assert len(set(answers)) == 1
        status, body = answers[0]
        assert status == 401
        assert orjson.loads(body)["error"]["code"] == "invalid_api_key"

    async def test_the_list_of_models_needs_a_key_too(self, locked: World) -> None:
        assert await list_models(locked, None) == 401
        assert await list_models(locked, TOKEN) == 200

    async def test_engines_never_see_a_key(self, running: Any) -> None:
        async with running() as world:
            put_keys(world, team_a=entry())
            world.add_model()
            engine = await world.add_engine()
            await world.wait_listed()

            for headers in ({"x-api-key": TOKEN}, {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": "Bearer x"}):
                async with ask(world, None, headers=headers) as response:
                    assert response.status == 200

        names = {name.lower() for received in engine.received for name in received.headers}
        assert not names & {"authorization", "x-api-key"}

    async def test_nothing_logs_a_key(self, locked: World, capsys: pytest.CaptureFixture[str]) -> None:
        async with ask(locked) as response:
            assert response.status == 200
        async with ask(locked, f"{TOKEN}x") as response:
            assert response.status == 401

        written = capsys.readouterr()
        assert TOKEN not in written.out + written.err
        assert digest_of(TOKEN) not in written.out + written.err

    async def test_without_a_need_for_keys_everybody_is_somebody(self, running: Any) -> None:
        async with running() as world:
            world.add_model()
            await world.add_engine()
            await world.wait_listed()

            for token in (None, "sk-whatever", TOKEN):
                async with ask(world, token) as response:
                    assert response.status == 200


class TestReloading:
    async def test_keys_come_go_and_change_without_a_restart(self, locked: World) -> None:
        other = make_token("team-b", random.choice)
        put_keys(locked, team_a=entry(), team_b=entry(other))
        await wait_keys(locked, token=other)

        put_keys(locked, team_b=entry(other))
        await wait_keys(locked, status=401)

        locked.kube.remove("secrets", NAMESPACE, SECRET)
        await wait_keys(locked, token=other, status=401)

    async def test_a_bad_entry_does_not_lock_the_others_out(self, locked: World) -> None:
        other = make_token("team-b", random.choice)
        put_keys(locked, team_a=entry(), broken="{", team_b=entry(other))
        await wait_keys(locked, token=other)

        async with ask(locked) as response:
            assert response.status == 200

    async def test_keys_stay_while_the_api_server_is_away(self, locked: World) -> None:
        locked.kube.go_away()
        async with ask(locked) as response:
            assert response.status == 200
        async with ask(locked, None) as response:
            assert response.status == 401

    async def test_nobody_is_called_unknown_before_the_keys_are_read(self, running: Any) -> None:
        async with running(keys_required=True, synced=False) as world:
            async with asyncio.timeout(5):
                while True:
                    try:
                        assert await list_models(world, TOKEN) == 503
                        break
                    except OSError:
                        await asyncio.sleep(0.005)


class TestPermitting:
    @pytest.fixture
    async def world(self, running: Any) -> AsyncIterator[World]:
        async with running() as world:
            put_keys(world, team_a=entry(models=["llama"]))
            world.add_model()
            world.add_model("secret-plan")
            await world.wait_listed("secret-plan")
            await world.add_engine()
            yield world

    async def test_a_model_that_the_key_may_not_use_is_forbidden(self, world: World) -> None:
        async with ask(world) as response:
            assert response.status == 200

        status, error = await refused(ask(world, model="secret-plan"))

        assert (status, error["code"], error["param"]) == (403, "model_not_allowed", "model")

    async def test_what_exists_is_not_told_apart_from_what_does_not(self, world: World) -> None:
        there, _ = await refused(ask(world, model="secret-plan"))
        nowhere, _ = await refused(ask(world, model="nowhere"))

        assert there == nowhere == 403

    async def test_only_what_the_key_may_use_is_listed(self, world: World) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with world.session.get(f"{world.url}/v1/models", headers=headers) as response:
            names = [model["id"] for model in (await response.json())["data"]]
        async with world.session.get(f"{world.url}/v1/models/secret-plan", headers=headers) as response:
            hidden = response.status, await response.text()

        assert names == ["llama"]
        assert hidden[0] == 404
        assert "Known models: llama." in hidden[1]


class TestLimiting:
    @pytest.fixture
    def limited(self, running: Any) -> Any:
        async def start(stack: Any, answer: Any = None, **limits: Any) -> World:
            world: World = await stack.enter_async_context(running(keys_required=True))
            put_keys(world, team_a=entry(**limits))
            world.add_model()
            await wait_keys(world)
            await world.add_engine(answer or answering(10, 5))
            return world

        return start

    async def test_requests_a_minute(self, limited: Any, stack: Any) -> None:
        world = await limited(stack, requestsPerMinute=2)

        async with ask(world) as response:
            assert response.headers["x-ratelimit-limit-requests"] == "2"
            assert response.headers["x-ratelimit-remaining-requests"] == "1"
            assert response.headers["x-ratelimit-reset-requests"] == "61s"
            assert "x-ratelimit-limit-tokens" not in response.headers
        async with ask(world) as response:
            assert response.status == 200
        async with ask(world) as response:
            error = (await response.json())["error"]
            assert response.status == 429
            assert (error["code"], error["type"]) == ("rate_limit_exceeded", "requests")
            assert 0 < int(response.headers["Retry-After"]) <= 61
            assert 0 < int(response.headers["retry-after-ms"]) <= 61_000
            assert response.headers["x-ratelimit-remaining-requests"] == "0"

    @pytest.mark.parametrize("stream", [False, True])
    async def test_tokens_are_what_the_engine_counted(self, limited: Any, stack: Any, stream: bool) -> None:
        world = await limited(stack, tokensPerMinute=1000)
        async with ask(world, stream=stream, max_tokens=500) as response:
            before = int(response.headers["x-ratelimit-remaining-tokens"])
            body = await response.read()
        async with ask(world, stream=stream, max_tokens=500) as response:
            after = int(response.headers["x-ratelimit-remaining-tokens"])

        assert b"usage" not in body or not stream
        assert 0 < before < 500
        # The estimate of the first was given back, but for the fifteen tokens that the engine counted.
        assert after == before - 15

    async def test_a_day_used_up_is_not_worth_another_try(self, limited: Any, stack: Any) -> None:
        world = await limited(stack, tokensPerDay=400, answer=answering(300, 60))
        async with ask(world) as response:
            assert response.status == 200
        async with ask(world) as response:
            error = (await response.json())["error"]
            assert response.status == 429
            assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
            assert response.headers["x-should-retry"] == "false"
            assert int(response.headers["Retry-After"]) > 86_000

    async def test_a_request_that_can_never_fit_is_told_so(self, limited: Any, stack: Any) -> None:
        world = await limited(stack, tokensPerMinute=100)
        async with ask(world, max_tokens=1000) as response:
            error = (await response.json())["error"]
            assert response.status == 429
            assert "too large" in error["message"]
            assert response.headers["x-should-retry"] == "false"
            assert "Retry-After" not in response.headers

    async def test_what_no_engine_had_costs_no_tokens(self, limited: Any, stack: Any) -> None:
        world = await limited(stack, tokensPerMinute=1000)
        world.add_model("cold", queue={"holdFor": "100ms"})
        await wait_model(world, "cold")
        async with ask(world, model="cold", max_tokens=900) as response:
            assert response.status == 503
        async with ask(world, max_tokens=900) as response:
            assert response.status == 200

    async def test_an_error_of_the_engine_costs_no_tokens(self, limited: Any, stack: Any) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return web.json_response({"error": {"message": "too long", "code": 400}}, status=400)

        world = await limited(stack, answer, tokensPerMinute=1000)
        for _ in range(3):
            async with ask(world, max_tokens=900) as response:
                assert response.status == 400

    async def test_leaving_early_is_no_way_around_a_limit(self, limited: Any, stack: Any) -> None:
        waiting = asyncio.Event()

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            waiting.set()
            await asyncio.Event().wait()
            raise AssertionError

        world = await limited(stack, answer, tokensPerMinute=1000)
        leaving = asyncio.ensure_future(ask(world, max_tokens=900).__aenter__())
        await waiting.wait()
        leaving.cancel()
        await asyncio.wait([leaving])
        await world.settle(inFlight=0)

        status, error = await refused(ask(world, max_tokens=900))

        assert (status, error["code"]) == (429, "rate_limit_exceeded")

    async def test_a_stream_that_is_left_costs_what_came_of_it(self, limited: Any, stack: Any) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            await stream(request, *[CHUNK] * 20)
            await asyncio.Event().wait()
            raise AssertionError

        world = await limited(stack, answer, tokensPerMinute=1000)
        async with ask(world, stream=True, max_tokens=500) as response:
            before = int(response.headers["x-ratelimit-remaining-tokens"])
            await response.content.readexactly(len(CHUNK) * 20)
        await world.settle(inFlight=0)
        async with ask(world, stream=True, max_tokens=500) as response:
            after = int(response.headers["x-ratelimit-remaining-tokens"])

        prompt = 500 - before
        assert before - after == prompt + 20

    async def test_limits_change_without_a_restart_and_keep_what_was_used(self, limited: Any, stack: Any) -> None:
        world = await limited(stack, requestsPerMinute=1)
        async with ask(world) as response:
            assert response.status == 200
        put_keys(world, team_a=entry(requestsPerMinute=3))

        async with asyncio.timeout(5):
            while True:
                async with ask(world) as response:
                    if response.status == 200:
                        break
                    assert response.status == 429
                await asyncio.sleep(0.005)
        assert response.headers["x-ratelimit-remaining-requests"] == "1"

    async def test_the_official_client_understands(self, limited: Any, stack: Any) -> None:
        world = await limited(stack, requestsPerMinute=1, models=["llama", "other"])
        client = openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=TOKEN, max_retries=0)
        stranger = client.with_options(api_key="sk-none")
        message: Any = {"role": "user", "content": "hi"}

        with pytest.raises(openai.AuthenticationError) as unknown:
            await stranger.models.list()
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(model="nobodys", messages=[message])
        await client.chat.completions.create(model="llama", messages=[message])
        with pytest.raises(openai.RateLimitError) as limited_:
            await client.chat.completions.create(model="llama", messages=[message])
        await client.close()

        assert unknown.value.code == "invalid_api_key"
        assert limited_.value.code == "rate_limit_exceeded"
        assert limited_.value.type == "requests"

    async def test_the_official_client_does_not_try_again_in_vain(self, limited: Any, stack: Any) -> None:
        world = await limited(stack, answering(300, 60), tokensPerDay=400)
        client = openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=TOKEN, max_retries=5)
        message: Any = {"role": "user", "content": "hi"}
        await client.chat.completions.create(model="llama", messages=[message])

        async with asyncio.timeout(2):
            with pytest.raises(openai.RateLimitError) as raised:
                await client.chat.completions.create(model="llama", messages=[message])
        await client.close()

        assert raised.value.code == "insufficient_quota"


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack
