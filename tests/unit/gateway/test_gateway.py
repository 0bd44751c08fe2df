"""What clients and the operator may rely on, over real HTTP."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web

from lull.doors import clock
from tests.fakes.engine import (
    CHUNKS,
    Gate,
    complete,
    die,
    die_inside_a_whole_answer,
    fail,
    fail_inside_stream,
    stream,
    stream_then_die,
)

if TYPE_CHECKING:
    from tests.unit.gateway.conftest import World


def events(body: bytes) -> list[bytes]:
    return [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: ")]


class TestServing:
    async def test_passes_a_whole_answer_through(self, world: World) -> None:
        world.add_model()
        engine = await world.add_engine()
        await world.wait_listed()
        body = b'{ "model":"llama",  "messages":[], "seed": 1e0 }'

        async with world.session.post(
            f"{world.url}/v1/chat/completions",
            data=body,
            headers={"Content-Type": "application/json", "Authorization": "Bearer secret", "x-request-id": "abc"},
        ) as response:
            assert response.status == 200
            assert await response.json() == {"object": "chat.completion", "choices": []}
            assert response.headers["x-request-id"] == "abc"

        (received,) = engine.received
        assert received.body == body
        assert received.path == "/v1/chat/completions"
        assert received.headers["x-request-id"] == "abc"
        assert "Authorization" not in received.headers

    async def test_streams_chunk_by_chunk_and_unchanged(self, world: World) -> None:
        step = asyncio.Event()

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = await stream(request, CHUNKS[0])
            await step.wait()
            for chunk in CHUNKS[1:]:
                await response.write(chunk)
            return response

        world.add_model()
        await world.add_engine(answer)
        await world.wait_listed()

        async with world.chat(stream=True) as response:
            assert response.content_type == "text/event-stream"
            assert await response.content.readany() == CHUNKS[0]
            step.set()
            assert await response.content.read() == b"".join(CHUNKS[1:])

    async def test_characters_cut_between_chunks_arrive_whole(self, world: World) -> None:
        whole = b"".join(CHUNKS)
        world.add_model()
        await world.add_engine(lambda request: stream(request, *(whole[i : i + 1] for i in range(len(whole)))))
        await world.wait_listed()

        assert await world.ask(stream=True) == (200, whole)

    async def test_chunked_bodies_and_aliases_are_fine(self, world: World) -> None:
        async def pieces() -> Any:
            for piece in (b'{"model":', b'"other",', b'"prompt":"', b"x" * 200_000, b'"}'):
                yield piece

        world.add_model(aliases=("other",))
        engine = await world.add_engine()
        await world.wait_listed()

        async with world.session.post(f"{world.url}/v1/completions", data=pieces()) as response:
            assert response.status == 200
        assert len(engine.received[0].body) > 200_000

    async def test_large_bodies_are_passed_on(self, world: World) -> None:
        world.add_model()
        engine = await world.add_engine()
        await world.wait_listed()

        body = io.BytesIO(orjson.dumps({"model": "llama", "prompt": "x" * 3_000_000}))
        async with world.session.post(f"{world.url}/v1/completions", data=body) as response:
            assert response.status == 200
        assert len(engine.received[0].body) > 3_000_000

    async def test_lists_models_from_the_llmdeployments_alone(self, world: World) -> None:
        world.add_model(aliases=("alias",))
        await world.wait_listed()

        async with world.session.get(f"{world.url}/v1/models") as response:
            models = (await response.json())["data"]

        assert [model["id"] for model in models] == ["llama", "alias"]
        assert models[0] == {
            "id": "llama",
            "object": "model",
            "created": 1767225600,
            "owned_by": "lull",
            "root": "hf://org/model",
            "parent": None,
        }

    async def test_client_errors_of_engines_pass_unchanged(self, world: World) -> None:
        world.add_model()
        engine = await world.add_engine(fail(400, "max_tokens is too large"))
        await world.wait_listed()

        status, body = await world.ask(stream=True)

        assert status == 400
        assert b"max_tokens is too large" in body
        assert len(engine.received) == 1

    async def test_follows_no_redirect(self, world: World) -> None:
        async def redirect(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": f"{world.admin}/demand"})

        world.add_model()
        await world.add_engine(redirect)
        await world.wait_listed()

        async with world.session.post(
            f"{world.url}/v1/completions", json={"model": "llama"}, allow_redirects=False
        ) as response:
            assert response.status == 307

    async def test_spreads_over_endpoints(self, world: World) -> None:
        world.add_model()
        gate = Gate()
        first = await world.add_engine(gate, pod="a")
        second = await world.add_engine(gate, pod="b")
        await world.wait_listed()

        async with asyncio.TaskGroup() as group:
            asks = [group.create_task(world.ask()) for _ in range(6)]
            await world.settle(inFlight=6)
            gate.opened.set()

        assert [ask.result()[0] for ask in asks] == [200] * 6
        assert (len(first.received), len(second.received)) == (3, 3)

    async def test_a_client_that_asks_before_it_sends_is_told_to_go_on(self, world: World) -> None:
        world.add_model()
        await world.add_engine()
        await world.wait_listed()
        reader, writer = await asyncio.open_connection("127.0.0.1", world.settings.port)
        body = b'{"model": "llama"}'
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )

        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()


class TestRefusing:
    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/health",
            "/metrics",
            "/demand",
            "/v1/load_lora_adapter",
            "/v1//chat/completions",
            "//v1/chat/completions",
            "/v1/chat/completions/",
            "/v1/%63hat/completions",
            "/v1/chat/completions/../../../sleep",
            "/v1/responses/resp_1",
            "/invocations",
            "/V1/chat/completions",
        ],
    )
    async def test_what_is_not_on_the_list_does_not_exist(self, world: World, path: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.settings.port)
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()

        assert answer.startswith(b"HTTP/1.1 404 ")
        assert b'"code":"unknown_path"' in answer

    async def test_wrong_methods_get_405(self, world: World) -> None:
        async with world.session.get(f"{world.url}/v1/chat/completions") as response:
            assert response.status == 405
            assert response.headers["Allow"] == "POST"
        async with world.session.post(f"{world.url}/v1/models") as response:
            assert response.status == 405

    async def test_nobody_is_woken_for_what_it_cannot_answer(self, world: World) -> None:
        world.add_model()
        world.kube.put(
            "llmdeployments",
            {
                "metadata": {
                    "namespace": "team-a",
                    "name": "vectors",
                    "uid": "v",
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                },
                "spec": {"model": {"source": "hf://org/vectors", "task": "Embed"}},
            },
        )
        await world.wait_listed("vectors")

        for model, path in (("llama", "/v1/embeddings"), ("vectors", "/v1/chat/completions")):
            async with world.session.post(world.url + path, json={"model": model, "input": "hi"}) as response:
                assert response.status == 404
                assert (await response.json())["error"]["code"] == "unsupported_path"
        assert (await world.demand())["models"] == {}

    async def test_unknown_models_get_404_with_names_that_exist(self, world: World) -> None:
        world.add_model()
        await world.wait_listed()

        status, body = await world.ask(model="nobody")

        assert status == 404
        error = orjson.loads(body)["error"]
        assert error["code"] == "model_not_found"
        assert error["message"] == "The model `nobody` does not exist. Known models: llama."

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 400),
            (b"{", 400),
            (b"[]", 400),
            (b'{"model": NaN}', 400),
            (b'{"model": null}', 400),
            (b'{"model": 7}', 400),
            (b'{"model": "\xff"}', 400),
            (b'{"model": "llama", "stream": "yes"}', 400),
            (b'{"model": "llama", "model": "other"}', 400),
            (b"[" * 100_000, 400),
            (b"x" * 2000, 413),
        ],
    )
    async def test_bad_bodies_get_an_openai_shaped_error(self, running: Any, body: bytes, status: int) -> None:
        async with (
            running(max_body_bytes=1024 if status == 413 else 200_000) as world,
            world.session.post(f"{world.url}/v1/completions", data=body) as response,
        ):
            assert response.status == status
            assert set((await response.json())["error"]) == {"message", "type", "param", "code"}

    async def test_a_chunked_body_over_the_limit_gets_413_too(self, running: Any) -> None:
        async def pieces() -> Any:
            for _ in range(10):
                yield b"x" * 200

        async with (
            running(max_body_bytes=1024) as world,
            world.session.post(f"{world.url}/v1/completions", data=pieces()) as response,
        ):
            assert response.status == 413

    async def test_compressed_bodies_get_415(self, world: World) -> None:
        async with world.session.post(
            f"{world.url}/v1/completions", data=b"x", headers={"Content-Encoding": "gzip"}
        ) as response:
            assert response.status == 415

    async def test_a_body_that_does_not_arrive_gets_408(self, running: Any) -> None:
        async with running(body_seconds=0.1) as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.settings.port)
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            status = await reader.readline()
            writer.close()

            assert status == b"HTTP/1.1 408 Request Timeout\r\n"

    async def test_bodies_in_memory_are_bounded(self, running: Any) -> None:
        async with running(max_pending_bytes=2000) as world:
            world.add_model()
            gate = Gate()
            await world.add_engine(gate)
            await world.wait_listed()

            async with asyncio.TaskGroup() as group:
                first = group.create_task(world.ask("x" * 1500))
                await gate.entered.wait()
                status, body = await world.ask("x" * 1500)
                gate.opened.set()

            assert (status, first.result()[0]) == (503, 200)
            assert b"overloaded" in body
            assert (await world.ask("x" * 1500))[0] == 200

    async def test_before_the_first_list_there_is_503_and_not_404(self, running: Any) -> None:
        async with running(synced=False) as world:
            async with asyncio.timeout(5):
                while True:
                    try:
                        async with world.session.get(f"{world.admin}/readyz") as response:
                            assert response.status == 503
                            break
                    except OSError:
                        await asyncio.sleep(0.01)
            async with world.chat() as response:
                assert response.status == 503
                assert response.headers["Retry-After"] == "5"
            async with world.session.get(f"{world.url}/v1/models") as response:
                assert response.status == 503


class TestHolding:
    async def test_a_request_for_a_cold_model_waits_for_its_first_endpoint(self, world: World) -> None:
        world.add_model()
        await world.wait_listed()

        async with asyncio.TaskGroup() as group:
            ask = group.create_task(world.ask(stream=True))
            await world.settle(held=1)
            await world.add_engine()

        assert ask.result() == (200, b"".join(CHUNKS))

    async def test_the_first_byte_leaves_soon_after_the_pod_is_ready(self, world: World) -> None:
        world.add_model()
        engine = await world.add_engine(ready=False)
        await world.wait_listed()

        async with asyncio.TaskGroup() as group:
            ask = group.create_task(world.ask())
            await world.settle(held=1)
            ready_at = clock.monotonic()
            world.put_pod(engine, pod="pod-1")
            await ask
            assert clock.monotonic() - ready_at < 0.3

    async def test_ten_clients_that_wake_a_model_all_get_their_answer(self, world: World) -> None:
        world.add_model()
        await world.wait_listed()

        async with asyncio.TaskGroup() as group:
            asks = [group.create_task(world.ask(f"request {n}")) for n in range(10)]
            await world.settle(held=10)
            engine = await world.add_engine()

        assert [ask.result()[0] for ask in asks] == [200] * 10
        assert len(engine.received) == 10

    async def test_they_are_let_go_in_the_order_of_their_arrival(self, world: World) -> None:
        # One sequence at a time gives an endpoint two slots; each answer lets the next one go.
        world.add_model(engine={"maxNumSeqs": 1})
        await world.wait_listed()
        async with asyncio.TaskGroup() as group:
            for n in range(8):
                group.create_task(world.ask(f"request {n}"))
                await world.settle(held=n + 1)

            async def answer(request: web.BaseRequest) -> web.StreamResponse:
                await asyncio.sleep(0.01)
                return await complete(request)

            engine = await world.add_engine(answer)

        order = [orjson.loads(received.body)["messages"][0]["content"] for received in engine.received]
        assert sorted(order[:2]) == ["request 0", "request 1"]
        assert [int(content.split()[1]) // 2 for content in order] == [0, 0, 1, 1, 2, 2, 3, 3]

    async def test_a_client_that_leaves_is_taken_out(self, world: World) -> None:
        world.add_model()
        await world.wait_listed()
        leaving = asyncio.ensure_future(world.ask("leaves"))
        await world.settle(held=1)
        leaving.cancel()
        await world.settle(held=0)

        async with asyncio.TaskGroup() as group:
            group.create_task(world.ask("stays"))
            await world.settle(held=1)
            engine = await world.add_engine()

        assert [b"stays" in received.body for received in engine.received] == [True]
        assert (await world.demand())["models"]["team-a/llama"]["arrived"] == 2

    async def test_the_line_is_bounded_by_count_and_by_bytes(self, world: World) -> None:
        world.add_model(queue={"maxHeld": 2, "maxHeldBytes": "1Ki"})
        await world.wait_listed()
        held = [asyncio.ensure_future(world.ask()) for _ in range(1)]
        await world.settle(held=1)

        async with world.chat("x" * 1000) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "5"
            assert (await response.json())["error"]["code"] == "queue_full"
        held.append(asyncio.ensure_future(world.ask()))
        await world.settle(held=2)
        assert (await world.ask())[0] == 429

        await world.add_engine()
        assert [(await ask)[0] for ask in held] == [200, 200]

    async def test_a_cold_start_over_its_budget_gets_503(self, world: World) -> None:
        world.add_model(queue={"holdFor": "100ms"})
        await world.wait_listed()

        async with world.chat() as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "10"
            assert (await response.json())["error"]["code"] == "cold_start_timeout"
        await world.settle(held=0)

    async def test_replicas_that_stay_busy_get_429(self, world: World) -> None:
        world.add_model(engine={"maxNumSeqs": 1}, queue={"holdFor": "100ms"})
        gate = Gate()
        await world.add_engine(gate)
        await world.wait_listed()

        async with asyncio.TaskGroup() as group:
            group.create_task(world.ask())
            group.create_task(world.ask())
            await world.settle(inFlight=2)
            status, body = await world.ask()
            gate.opened.set()

        assert status == 429
        assert b'"saturated"' in body

    async def test_streams_that_wait_long_get_comments(self, running: Any) -> None:
        async with running(heartbeat_seconds=0.1) as world:
            world.add_model()
            await world.wait_listed()

            async with world.chat(stream=True) as response:
                assert response.status == 200
                assert await response.content.readany() == b": waiting\n\n"
                await world.add_engine()
                assert await response.content.read() == b"".join(CHUNKS)

    async def test_a_stream_kept_open_ends_with_an_error_event_when_its_time_is_over(self, running: Any) -> None:
        async with running(heartbeat_seconds=0.1) as world:
            world.add_model(queue={"holdFor": "700ms"})
            await world.wait_listed()

            status, body = await world.ask(stream=True)

        assert status == 200
        (event,) = events(body)
        assert orjson.loads(event)["error"]["code"] == "cold_start_timeout"
        assert b"[DONE]" not in body

    async def test_deleting_the_model_ends_the_wait(self, world: World) -> None:
        world.add_model()
        await world.wait_listed()

        async with asyncio.TaskGroup() as group:
            ask = group.create_task(world.ask())
            await world.settle(held=1)
            world.kube.remove("llmdeployments", "team-a", "llama")

        assert ask.result()[0] == 404

    async def test_nothing_is_kept_of_a_model_that_is_gone(self, world: World) -> None:
        world.add_model()
        gate = Gate()
        engine = await world.add_engine(gate)
        await world.wait_listed()

        async with asyncio.TaskGroup() as group:
            ask = group.create_task(world.ask())
            await gate.entered.wait()
            world.kube.remove("llmdeployments", "team-a", "llama")
            await engine.stop()

        assert ask.result()[0] == 404
        assert (await world.demand())["models"] == {}
        async with world.session.get(f"{world.admin}/metrics") as response:
            assert "team-a" not in await response.text()


class TestRetrying:
    @pytest.mark.parametrize(
        "answer",
        [
            die,
            fail(502, "bad gateway"),
            fail(503, "The engine is currently busy"),
            fail(504, "timeout"),
            fail(500, "cannot schedule new futures after shutdown"),
            fail(500, "EngineCore encountered an issue. See stack trace for the root cause."),
            die_inside_a_whole_answer,
        ],
    )
    async def test_another_endpoint_answers(self, world: World, answer: Any) -> None:
        world.add_model()
        await world.wait_listed()
        bad = await world.add_engine(answer, pod="bad")
        async with asyncio.TaskGroup() as group:
            ask = group.create_task(world.ask())
            await world.until(lambda: bad.received)
            await world.add_engine(pod="good")

        assert ask.result()[0] == 200

    @pytest.mark.parametrize("code", [500, 503])
    async def test_an_error_as_the_first_event_of_a_stream_is_not_passed_on(self, world: World, code: int) -> None:
        world.add_model()
        await world.wait_listed()
        bad = await world.add_engine(fail_inside_stream(code, "busy"), pod="bad")
        async with asyncio.TaskGroup() as group:
            ask = group.create_task(world.ask(stream=True))
            await world.until(lambda: bad.received)
            await world.add_engine(pod="good")

        assert ask.result() == (200, b"".join(CHUNKS))

    async def test_comments_without_end_before_the_first_event_are_not_kept(self, world: World) -> None:
        async def chatter(request: web.BaseRequest) -> web.StreamResponse:
            return await stream(request, *[b": " + b"x" * 32_768 + b"\n\n"] * 32, *CHUNKS)

        world.add_model()
        await world.wait_listed()
        bad = await world.add_engine(chatter, pod="bad")
        async with asyncio.TaskGroup() as group:
            ask = group.create_task(world.ask(stream=True))
            await world.until(lambda: bad.received)
            await world.add_engine(pod="good")

        assert ask.result() == (200, b"".join(CHUNKS))

    async def test_the_only_engine_dies_and_the_request_waits_for_its_successor(self, world: World) -> None:
        world.add_model()
        gate = Gate()
        engine = await world.add_engine(gate)
        await world.wait_listed()

        async with asyncio.TaskGroup() as group:
            asks = [group.create_task(world.ask(stream=stream)) for stream in (True, False)]
            await world.settle(inFlight=2)
            await engine.stop()
            await world.settle(held=2)
            world.remove_pod()
            await world.add_engine(pod="pod-2")

        assert [ask.result()[0] for ask in asks] == [200, 200]

    async def test_a_pod_that_vanishes_without_a_word_is_noticed(self, world: World) -> None:
        world.add_model()
        gate = Gate()
        await world.add_engine(gate)
        await world.wait_listed()

        async with asyncio.TaskGroup() as group:
            ask = group.create_task(world.ask())
            await gate.entered.wait()
            world.remove_pod()
            await world.settle(held=1)
            await world.add_engine(pod="pod-2")

        assert ask.result()[0] == 200

    async def test_engines_that_stay_busy_cost_a_request_its_time_and_then_429(self, world: World) -> None:
        world.add_model(queue={"holdFor": "400ms"})
        engine = await world.add_engine(fail(503, "The engine is currently busy"))
        await world.wait_listed()

        status, body = await world.ask()

        assert status == 429
        assert b'"saturated"' in body
        assert len(engine.received) == 2

    async def test_a_request_that_breaks_every_engine_gets_502(self, running: Any) -> None:
        async with running(max_tries=2) as world:
            world.add_model()
            engine = await world.add_engine(die)
            await world.wait_listed()

            status, body = await world.ask()

        assert status == 502
        assert b"engine_failed" in body
        assert len(engine.received) == 2

    async def test_an_endpoint_that_drains_gets_nothing_new_and_finishes(self, world: World) -> None:
        world.add_model()
        gate = Gate()
        old = await world.add_engine(gate, pod="old")
        await world.wait_listed()

        async with asyncio.TaskGroup() as group:
            first = group.create_task(world.ask())
            await gate.entered.wait()
            new = await world.add_engine(pod="new")
            world.put_pod(old, pod="old", deleting=True)
            await world.settle(inFlight=1)
            async with asyncio.timeout(5):
                while not new.received:
                    await world.ask()
            later = [(await world.ask())[0] for _ in range(4)]
            gate.opened.set()

        assert first.result()[0] == 200
        assert later == [200] * 4
        assert len(new.received) >= 5

    async def test_an_engine_that_is_not_reached_costs_no_request(self, world: World) -> None:
        world.add_model()
        dead = await world.add_engine(pod="dead")
        await dead.stop()
        await world.add_engine(pod="alive")
        await world.wait_listed()

        assert [(await world.ask())[0] for _ in range(4)] == [200] * 4


class TestBreaking:
    async def test_a_stream_that_dies_ends_with_an_error_event_and_no_done(self, world: World) -> None:
        half = b'data: {"choices":[{"del'
        world.add_model()
        engine = await world.add_engine(stream_then_die(CHUNKS[0], CHUNKS[1] + half))
        await world.wait_listed()

        status, body = await world.ask(stream=True)

        assert status == 200
        *passed, last = events(body)
        assert [b"data: " + event + b"\n\n" for event in passed] == list(CHUNKS[:2])
        assert orjson.loads(last)["error"]["code"] == "engine_failed"
        assert b"[DONE]" not in body
        assert len(engine.received) == 1

    async def test_a_stream_that_just_stops_is_not_taken_for_complete(self, world: World) -> None:
        world.add_model()
        await world.add_engine(lambda request: stream(request, CHUNKS[0]))
        await world.wait_listed()

        _, body = await world.ask(stream=True)

        assert b"engine_failed" in events(body)[-1]

    async def test_an_engine_that_reports_its_own_death_gets_no_done(self, world: World) -> None:
        error = b'data: {"error":{"message":"EngineCore encountered an issue","type":"x","param":null,"code":500}}\n\n'
        world.add_model()
        await world.add_engine(lambda request: stream(request, CHUNKS[0], error + CHUNKS[2]))
        await world.wait_listed()

        assert await world.ask(stream=True) == (200, CHUNKS[0] + error)

    async def test_a_client_that_leaves_frees_its_engine(self, world: World) -> None:
        world.add_model()
        gate = Gate()
        engine = await world.add_engine(gate)
        await world.wait_listed()

        leaving = asyncio.ensure_future(world.ask())
        await gate.entered.wait()
        leaving.cancel()

        await world.until(lambda: engine.cancelled)
        await world.settle(inFlight=0)

    async def test_a_client_that_leaves_in_the_middle_of_a_stream_frees_its_engine(self, world: World) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = await stream(request, CHUNKS[0])
            await asyncio.sleep(30)
            return response

        world.add_model()
        engine = await world.add_engine(answer)
        await world.wait_listed()

        response = await world.chat(stream=True)
        await response.content.readany()
        response.close()

        await world.until(lambda: engine.cancelled)

    async def test_a_pod_that_vanishes_in_the_middle_of_a_stream_ends_it(self, world: World) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = await stream(request, CHUNKS[0])
            await asyncio.sleep(30)
            return response

        world.add_model()
        await world.add_engine(answer)
        await world.wait_listed()

        async with world.chat(stream=True) as response:
            await response.content.readany()
            world.remove_pod()
            async with asyncio.timeout(1):
                rest = await response.content.read()

        assert b"engine_failed" in events(rest)[-1]

    async def test_an_engine_that_falls_silent_is_given_up(self, running: Any) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = await stream(request, CHUNKS[0])
            await asyncio.sleep(30)
            return response

        async with running(idle_seconds=0.1) as world:
            world.add_model()
            await world.add_engine(answer)
            await world.wait_listed()

            _, body = await world.ask(stream=True)

        assert b"engine_failed" in events(body)[-1]

    async def test_a_stream_whose_end_waits_for_the_usage_is_not_silent(self, running: Any) -> None:
        def chunk(index: int, finish: str | None = None) -> bytes:
            choice = {"index": index, "delta": {"content": "a"}, "finish_reason": finish}
            return b"data: " + orjson.dumps({"id": "c", "choices": [choice]}) + b"\n\n"

        usage = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":5}}\n\n'
        done = b"data: [DONE]\n\n"

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = await stream(request, chunk(0), chunk(0, "stop"))
            for _ in range(4):
                await asyncio.sleep(0.3)
                await response.write(chunk(1))
            await response.write(chunk(1, "stop") + usage + done)
            return response

        async with running(idle_seconds=0.5) as world:
            world.add_model()
            await world.add_engine(answer)
            await world.wait_listed()

            _, body = await world.ask(stream=True, n=2)

        assert body == chunk(0) + chunk(0, "stop") + chunk(1) * 4 + chunk(1, "stop") + done


class TestTimeouts:
    async def test_an_engine_that_answers_nothing_is_given_up(self, world: World) -> None:
        world.add_model(requests={"timeouts": {"firstByte": "1s"}})
        gate = Gate()
        engine = await world.add_engine(gate)
        await world.wait_listed()

        status, body = await world.ask()

        assert status == 504
        assert orjson.loads(body)["error"]["message"] == "The engine did not answer within 1 s."
        await world.until(lambda: engine.cancelled == 1)

    async def test_an_answer_must_end_in_time(self, world: World) -> None:
        async def trickle(request: web.BaseRequest) -> web.StreamResponse:
            response = await stream(request, CHUNKS[0])
            while True:
                await asyncio.sleep(0.05)
                await response.write(CHUNKS[1])

        world.add_model(requests={"timeouts": {"total": "1s"}})
        engine = await world.add_engine(trickle)
        await world.wait_listed()

        status, body = await world.ask(stream=True)

        assert status == 200
        assert orjson.loads(events(body)[-1])["error"]["code"] == "engine_failed"
        await world.until(lambda: engine.cancelled == 1)

    async def test_a_client_may_wait_for_less_long(self, world: World) -> None:
        world.add_model()
        await world.wait_listed()

        async with world.session.post(
            f"{world.url}/v1/completions", json={"model": "llama", "prompt": "x"}, headers={"x-lull-timeout": "0.1"}
        ) as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "cold_start_timeout"

    async def test_a_wish_that_is_no_number_is_refused(self, world: World) -> None:
        world.add_model()
        await world.wait_listed()

        for wish in ("soon", "-1", "nan", "inf", ""):
            async with world.session.post(
                f"{world.url}/v1/completions", json={"model": "llama", "prompt": "x"}, headers={"x-lull-timeout": wish}
            ) as response:
                assert response.status == 400
                assert (await response.json())["error"]["code"] == "invalid_header"


class TestOperating:
    async def test_a_held_request_wakes_the_poll_at_once(self, world: World) -> None:
        world.add_model()
        await world.wait_listed()
        sequence = (await world.demand())["sequence"]
        async with asyncio.TaskGroup() as group:
            poll = group.create_task(world.demand(after=sequence, wait=20))
            await asyncio.sleep(0.05)
            assert not poll.done()

            asked_at = clock.monotonic()
            ask = group.create_task(world.ask())
            demand = await poll
            assert clock.monotonic() - asked_at < 0.2
            await world.add_engine()
            await ask

        assert demand["gateway"] == "gateway-1"
        assert demand["sequence"] == sequence + 1
        assert demand["models"]["team-a/llama"]["held"] == 1
        assert demand["models"]["team-a/llama"]["arrived"] == 1

    async def test_a_poll_without_news_returns_after_its_wait(self, world: World) -> None:
        sequence = (await world.demand())["sequence"]

        assert (await world.demand(after=sequence, wait=0.05))["sequence"] == sequence
        assert (await world.demand(after=sequence + 7, wait=20))["sequence"] == sequence

    async def test_metrics_name_models_that_exist_and_no_others(self, world: World) -> None:
        world.add_model()
        await world.add_engine()
        await world.wait_listed()
        await world.ask()
        await world.ask(model="made-up")

        async with world.session.get(f"{world.admin}/metrics") as response:
            text = await response.text()

        assert 'lull_gateway_requests_total{code="200",name="llama",namespace="team-a"} 1.0' in text
        assert 'lull_gateway_requests_total{code="404",name="",namespace=""} 1.0' in text
        assert "made-up" not in text

    async def test_requests_flow_while_the_api_server_is_away(self, world: World) -> None:
        world.add_model()
        await world.add_engine()
        await world.wait_listed()
        assert (await world.ask())[0] == 200

        world.kube.go_away()

        assert [(await world.ask())[0] for _ in range(3)] == [200] * 3
        async with world.session.get(f"{world.admin}/readyz") as response:
            assert response.status == 200

    async def test_a_name_is_not_called_unknown_while_the_api_server_is_away(self, running: Any) -> None:
        async with running(sync_seconds=4) as world, asyncio.TaskGroup() as group:
            world.kube.go_away()
            while True:
                ask = group.create_task(world.ask(model="newcomer"))
                await asyncio.wait({ask}, timeout=0.3)
                if not ask.done():
                    break
                assert ask.result()[0] == 404

            world.add_model("newcomer")
            await world.add_engine(model="newcomer")
            world.kube.come_back()

        assert ask.result()[0] == 200

    async def test_what_changed_while_the_api_server_was_away_is_seen_when_it_returns(self, world: World) -> None:
        world.add_model()
        await world.add_engine()
        await world.wait_listed()
        world.kube.go_away()
        world.remove_pod()
        world.kube.forget_history()

        world.kube.come_back()

        async with asyncio.TaskGroup() as group:
            await asyncio.sleep(0.5)
            ask = group.create_task(world.ask())
            await world.settle(held=1)
            await world.add_engine(pod="pod-2")
        assert ask.result()[0] == 200

    async def test_stopping_turns_away_who_waits_and_lets_those_in_flight_finish(self, running: Any) -> None:
        async with running(lame_duck_seconds=0.2, drain_seconds=5) as world:
            world.add_model()
            world.add_model("cold")
            gate = Gate()
            await world.add_engine(gate)
            await world.wait_listed("cold")
            async with asyncio.TaskGroup() as group:
                flying = group.create_task(world.ask())
                held = group.create_task(world.ask(model="cold"))
                await gate.entered.wait()
                await world.settle(inFlight=1)

                world.stop.set()
                await asyncio.sleep(0.05)
                async with world.session.get(f"{world.admin}/readyz") as response:
                    assert response.status == 503
                status, body = await held
                gate.opened.set()

            assert status == 503
            assert b'"stopping"' in body
            assert flying.result()[0] == 200

    @pytest.mark.parametrize("stream", [False, True])
    async def test_what_is_on_its_way_when_the_door_closes_is_answered(self, running: Any, *, stream: bool) -> None:
        async with running(drain_seconds=5) as world:
            world.add_model()
            gate = Gate()
            await world.add_engine(gate)
            await world.wait_listed()
            reader, writer = await asyncio.open_connection("127.0.0.1", world.settings.port)
            body = b'{"model": "llama", "prompt": "x", "stream": %s}' % (b"true" if stream else b"false")
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            await gate.entered.wait()
            gate.opened.set()
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")

            world.stop.set()
            for _ in range(20):
                # Turns of the event loop in which the door closes: a time could be too short, or too long.
                await asyncio.sleep(0)
            writer.write(head + body)
            rest = await reader.read()

            assert b"200 OK" in rest
            assert b"connection: close" in rest
            writer.close()

    async def test_a_stopping_gateway_still_serves_and_closes_its_connections(self, running: Any) -> None:
        async with running(lame_duck_seconds=0.5) as world:
            world.add_model()
            await world.add_engine()
            await world.wait_listed()
            world.stop.set()
            await asyncio.sleep(0.05)

            async with world.chat() as response:
                assert response.status == 200
                assert response.headers["Connection"] == "close"
