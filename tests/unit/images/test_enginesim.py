"""What engine-sim lies about, and how it ends; that its answers are vLLM's is the contract tests' to say."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError, ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from images.enginesim.options import parse_options
from images.enginesim.server import Server
from lull.core.enginemetrics import parse_metrics

_CHAT = "/v1/chat/completions"
Client = TestClient[web.Request, web.Application]
_DEV = {"VLLM_SERVER_DEV_MODE": "1"}


@asynccontextmanager
async def _serving(*flags: str, **environment: str) -> AsyncIterator[tuple[Server, Client]]:
    options = parse_options(["serve", "sim", "--sim-decode-tps", "2000", *flags], environment)
    server = Server(options, now=0.0)
    driver = asyncio.create_task(server.drive())
    async with TestClient(TestServer(server.app(), handler_cancellation=True)) as client:
        yield server, client
    driver.cancel()


def _chat(**fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **fields}


async def _begin(client: Client, **fields: object) -> ClientResponse:
    """Open a stream that goes on for long, and read its first event."""
    response = await client.post(_CHAT, json=_chat(stream=True, max_tokens=4000, **fields))
    await response.content.readline()
    return response


async def test_answers_with_numbered_tokens() -> None:
    async with _serving() as (_, client):
        answer = await (await client.post(_CHAT, json=_chat())).json()

    assert answer["choices"][0]["message"]["content"] == "tok0 tok1 tok2 tok3 tok4"
    assert answer["usage"]["completion_tokens"] == 5


async def test_goes_on_counting_where_an_answer_is_to_be_continued() -> None:
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "tok0 tok1"}]
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    async with _serving() as (_, client):
        continued = await (await client.post(_CHAT, json=_chat(messages=said, **flags))).json()
        answered = await (await client.post(_CHAT, json=_chat(messages=said))).json()
        completed = await (await client.post("/v1/completions", json={"prompt": "tok8", "max_tokens": 2})).json()

    assert continued["choices"][0]["message"]["content"] == " tok2 tok3 tok4 tok5 tok6"
    assert answered["choices"][0]["message"]["content"] == "tok0 tok1 tok2 tok3 tok4"
    assert completed["choices"][0]["text"] == " tok9 tok10"


async def test_a_late_rejection_is_an_error_inside_a_200_stream() -> None:
    async with _serving("--max-num-queued-reqs", "0") as (_, client):
        await client.post("/sim/config", json={"late_rejection": True})
        streamed = await client.post(_CHAT, json=_chat(stream=True))
        whole = await client.post(_CHAT, json=_chat())
        text = await streamed.text()

    first, done, *_ = text.split("\n\n")
    assert streamed.status == 200
    assert json.loads(first.removeprefix("data: "))["error"]["code"] == 503
    assert done == "data: [DONE]"
    assert whole.status == 503


async def test_sigterm_without_a_timeout_ends_streams_with_an_error() -> None:
    async with _serving() as (server, client):
        stream = await _begin(client)
        await server.drain()
        text = await stream.text()

    assert "EngineCore encountered an issue" in text
    assert text.endswith("data: [DONE]\n\n")


async def test_draining_is_healthy_refuses_and_finishes() -> None:
    async with _serving("--shutdown-timeout", "5", "--sim-decode-tps", "5000") as (server, client):
        stream = await _begin(client)
        draining = asyncio.create_task(server.drain())
        await asyncio.sleep(0)
        health, refused = await client.get("/health"), await client.post(_CHAT, json=_chat())
        text, refusal = await stream.text(), await refused.text()
        await draining

    assert health.status == 200
    assert refused.status == 500
    assert "cannot schedule new futures after shutdown" in refusal
    assert '"finish_reason":"length"' in text


async def test_what_does_not_fit_into_the_shutdown_timeout_hangs_until_its_client_leaves() -> None:
    async with _serving("--shutdown-timeout", "0.05", "--sim-decode-tps", "10") as (server, client):
        stream = await _begin(client)
        await server.drain()
        ended = asyncio.create_task(server.wait_for_clients())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await stream.read()
        was_waiting = not ended.done()
        stream.close()
        await ended

    assert was_waiting


async def test_a_dead_core_ends_streams_and_only_later_shows_in_health() -> None:
    async with _serving("--sim-unnoticed-death", "0.1", "--sim-death-delay", "0.2") as (server, client):
        stream = await _begin(client)
        await client.post("/sim/die")
        text, early = await stream.text(), await client.get("/health")
        await asyncio.sleep(0.12)
        late, refused = await client.get("/health"), await client.post(_CHAT, json=_chat())
        await server.stopped.wait()

    assert "EngineCore encountered an issue" in text
    assert (early.status, late.status, refused.status) == (200, 503, 500)


async def test_counts_tokens_while_they_are_written() -> None:
    async with _serving("--sim-decode-tps", "10") as (_, client):
        stream = await _begin(client)
        # A blank line, and the event that has a token.
        await stream.content.readline()
        await stream.content.readline()
        during = parse_metrics(await (await client.get("/metrics")).read())
        stream.close()

    # Nothing has ended, and the prompt counts when it has.
    assert (during.running, during.finished) == (1, 0)
    assert during.tokens


async def test_load_counts_what_the_gauges_miss_while_asleep() -> None:
    async with _serving("--enable-server-load-tracking", **_DEV) as (_, client):
        await client.post("/sleep")
        held = asyncio.create_task(client.post(_CHAT, json=_chat()))
        await asyncio.sleep(0.05)
        load, page = await (await client.get("/load")).json(), await (await client.get("/metrics")).text()
        await client.post("/wake_up")
        answer = await held

    assert load == {"server_load": 1}
    assert 'vllm:num_requests_waiting{engine="0",model_name="sim"} 0' in page
    assert answer.status == 200


async def test_fails_as_often_as_it_is_told() -> None:
    async with _serving() as (_, client):
        await client.post("/sim/config", json={"fail_requests": 2, "fail_status": 502})
        statuses = [(await client.post(_CHAT, json=_chat())).status for _ in range(3)]

    assert statuses == [502, 502, 200]


async def test_breaks_off_in_the_middle_of_a_stream() -> None:
    async with _serving("--sim-drop-after-tokens", "2") as (_, client):
        response = await client.post(_CHAT, json=_chat(stream=True))
        with pytest.raises((ClientPayloadError, ClientConnectionError)):
            await response.read()


async def test_an_error_after_some_tokens_is_an_event_and_an_end() -> None:
    async with _serving("--sim-error-after-tokens", "2") as (_, client):
        text = await (await client.post(_CHAT, json=_chat(stream=True))).text()

    assert (" tok1" in text, " tok2" in text) == (True, False)
    assert '"code":500' in text
    assert text.endswith("data: [DONE]\n\n")


async def test_adapters_and_sleep_are_there_only_where_vllm_has_them() -> None:
    async with _serving("--enable-lora") as (_, client):
        statuses = [(await client.post(path)).status for path in ("/v1/load_lora_adapter", "/sleep")]

    assert statuses == [404, 404]


async def test_an_api_key_guards_only_what_vllm_guards() -> None:
    async with _serving("--api-key", "secret") as (_, client):
        models, invocation = await client.get("/v1/models"), await client.post("/invocations", json=_chat())
        known = await client.get("/v1/models", headers={"Authorization": "Bearer secret"})

    assert (models.status, invocation.status, known.status) == (401, 200, 200)


async def test_a_client_that_leaves_frees_its_slot() -> None:
    async with _serving("--max-num-seqs", "1", "--sim-decode-tps", "10") as (server, client):
        stream = await _begin(client)
        stream.close()
        async with asyncio.timeout(2):
            await server._until(lambda: server.engine.unfinished == 0)

    assert server.engine.unfinished == 0


async def test_refuses_a_setting_that_it_does_not_know() -> None:
    async with _serving() as (_, client):
        response = await client.post("/sim/config", json={"speed": 1})

    assert response.status == 400


def test_takes_vllms_command_line_and_ignores_the_rest() -> None:
    options = parse_options(
        [
            "serve",
            "/models/m",
            "--served_model_name",
            "a",
            "b",
            "--max-model-len=8k",
            "--enforce-eager",
            "--dtype",
            "auto",
        ],
        {"SIM_STARTUP": "2.5", "SIM_HANG": "true"},
    )

    assert (options.model, options.served_names, options.max_model_len) == ("/models/m", ("a", "b"), 8000)
    assert (options.startup, options.behaviour.hang) == (2.5, True)


async def test_an_error_inside_a_message_is_an_event_of_its_own() -> None:
    async with _serving() as (_, client):
        await client.post("/sim/config", json={"error_after_tokens": 2})
        answer = await client.post("/v1/messages", json=_chat(model="sim", stream=True))
        text = await answer.text()

    assert answer.status == 200
    assert "event: error\n" in text
    assert "message_stop" not in text


async def test_an_error_inside_a_response_cuts_the_connection() -> None:
    async with _serving() as (_, client):
        await client.post("/sim/config", json={"error_after_tokens": 2})
        answer = await client.post("/v1/responses", json={"input": "hi", "max_output_tokens": 9, "stream": True})
        with pytest.raises((ClientPayloadError, ClientConnectionError)):
            await answer.text()


async def test_a_pooling_model_generates_nothing_and_always_says_the_same() -> None:
    async with _serving("--runner", "pooling") as (_, client):
        first = await (await client.post("/v1/embeddings", json={"input": "hi"})).json()
        again = await (await client.post("/v1/embeddings", json={"input": ["ho", "hi"]})).json()
        chat = await client.post(_CHAT, json=_chat())

    assert first["data"][0]["embedding"] == again["data"][1]["embedding"] != again["data"][0]["embedding"]
    assert chat.status == 404
