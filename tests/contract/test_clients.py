"""Real vLLM behind a whole gateway, asked by the clients that people use: OpenAI's, Anthropic's, and curl."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from anthropic import AsyncAnthropic
from anthropic import NotFoundError as NoSuchModel
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from tests.contract.conftest import Behind, Engine, port_of
from tests.unit.gateway import conftest as gateways

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.contract.conftest import Pair, Starter

running_gateway = gateways.running
# The image may have to be built first, and two cores may be busy.
pytestmark = [pytest.mark.contract, pytest.mark.timeout(1500)]

_CHAT, _TEXT, _RESPONSES, _MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
_HELLO: list[Any] = [{"role": "user", "content": "Hello, how are you?"}]
_GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "seed": 7, "extra_body": {"ignore_eos": True}}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
# Without `strict` vLLM has a call end in any JSON, and this model says anything.
_FUNCTION: Any = {"name": "answer", "description": "Say it.", "parameters": _SCHEMA, "strict": True}
_TOOL: Any = {"type": "function", "function": _FUNCTION}
_FOREIGN = "Grüße, 世界 🎉 — ño"
_PIECE_BYTES = 5


@dataclass(frozen=True, slots=True)
class Door:
    """A gateway, and the engine behind it."""

    url: str
    engine: Engine

    @property
    def openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    @property
    def anthropic(self) -> AsyncAnthropic:
        return AsyncAnthropic(base_url=self.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def pair(start: Starter) -> Iterator[Pair]:
    """Engines that others do not use: after a request with tools vLLM cuts its streams of chats in another way."""
    with start([]) as both:
        yield both


@pytest.fixture
def opening(pair: Pair, running_gateway: Any) -> Any:
    @asynccontextmanager
    async def opener(port: int | None = None) -> AsyncIterator[Door]:
        async with running_gateway() as world:
            world.add_model("tiny")
            world.put_pod(Behind(port or port_of(pair.real)), pod="pod-1", model="tiny")
            await world.wait_listed("tiny")
            yield Door(world.url, pair.real)

    return opener


@pytest.fixture
async def door(opening: Any) -> AsyncIterator[Door]:
    async with opening() as door:
        yield door


class TestOpenAI:
    async def test_a_stream_says_what_a_whole_answer_does(self, door: Door) -> None:
        async with door.openai as client:
            whole = await client.chat.completions.create(messages=_HELLO, max_tokens=24, **_GREEDY)
            stream = await client.chat.completions.create(messages=_HELLO, max_tokens=24, stream=True, **_GREEDY)
            chunks = [chunk async for chunk in stream]

        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert text == whole.choices[0].message.content
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 24
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
        assert chunks[-1].choices[0].finish_reason == "length"

    async def test_completions_stream_as_well(self, door: Door) -> None:
        async with door.openai as client:
            whole = await client.completions.create(prompt="Hello", max_tokens=24, logprobs=1, **_GREEDY)
            stream = await client.completions.create(prompt="Hello", max_tokens=24, stream=True, **_GREEDY)
            chunks = [chunk async for chunk in stream]

        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
        assert whole.choices[0].logprobs is not None
        assert len(whole.choices[0].logprobs.token_logprobs or []) == 24

    async def test_a_usage_that_is_asked_for_comes_last(self, door: Door) -> None:
        async with door.openai as client:
            stream = await client.chat.completions.create(
                messages=_HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}, **_GREEDY
            )
            *chunks, last = [chunk async for chunk in stream]

        assert all(chunk.usage is None for chunk in chunks)
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.completion_tokens == 8

    async def test_several_choices_with_log_probabilities(self, door: Door) -> None:
        asked: dict[str, Any] = {"model": "tiny", "messages": _HELLO, "max_tokens": 6, "n": 3, "logprobs": True}
        async with door.openai as client:
            whole = await client.chat.completions.create(**asked, top_logprobs=2, extra_body={"ignore_eos": True})
            stream = await client.chat.completions.create(**asked, stream=True, extra_body={"ignore_eos": True})
            chunks = [chunk async for chunk in stream]

        assert [len(choice.logprobs.content or []) for choice in whole.choices if choice.logprobs] == [6, 6, 6]
        assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1, 2}
        finished = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
        assert sorted(finished) == [0, 1, 2]

    async def test_tools_are_called(self, door: Door) -> None:
        asked: dict[str, Any] = {"model": "tiny", "messages": _HELLO, "max_tokens": 200, "tools": [_TOOL]}
        asked |= {"tool_choice": "required", "parallel_tool_calls": False}
        async with door.openai as client:
            whole = await client.chat.completions.create(**asked)
            stream = await client.chat.completions.create(**asked, stream=True)
            chunks = [chunk async for chunk in stream]

        (called, *_) = whole.choices[0].message.tool_calls or []
        assert called.type == "function"
        assert called.function.name == "answer"
        assert json.loads(called.function.arguments)["ok"] in {True, False}
        deltas = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or []]
        first = [delta.function.arguments or "" for delta in deltas if delta.index == 0 and delta.function]
        assert json.loads("".join(first))["ok"] in {True, False}

    async def test_an_answer_follows_a_schema(self, door: Door) -> None:
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA, "strict": True}}
        async with door.openai as client:
            answer = await client.chat.completions.create(
                model="tiny", messages=_HELLO, max_tokens=200, response_format=wanted
            )

        assert json.loads(answer.choices[0].message.content or "").keys() == {"ok"}

    async def test_letters_that_tokens_and_packets_cut_in_pieces_come_whole(self, opening: Any, pair: Pair) -> None:
        asked = {"structured_outputs": {"choice": [_FOREIGN]}}
        async with _slicing(port_of(pair.real)) as port, opening(port) as door, door.openai as client:
            stream = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": _FOREIGN}], stream=True, extra_body=asked
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert text == _FOREIGN

    async def test_responses_come_whole_and_as_a_stream(self, door: Door) -> None:
        async with door.openai as client:
            whole = await client.responses.create(input="Hello", max_output_tokens=12, **_without_seed())
            stream = await client.responses.create(input="Hello", max_output_tokens=12, stream=True, **_without_seed())
            *events, last = [event async for event in stream]

        assert last.type == "response.completed"
        assert last.response.usage is not None
        assert last.response.usage.output_tokens == 12
        deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert deltas == last.response.output_text == whole.output_text

    async def test_a_response_that_leans_on_another_is_refused_in_words(self, door: Door) -> None:
        async with door.openai as client:
            with pytest.raises(BadRequestError, match="responses are not kept"):
                await client.responses.create(model="tiny", input="Hello", previous_response_id="resp_1")
            with pytest.raises(NotFoundError):
                await client.responses.retrieve("resp_1")

    async def test_models_are_listed_and_found(self, door: Door) -> None:
        async with door.openai as client:
            listed = await client.models.list()
            found = await client.models.retrieve("tiny")
            with pytest.raises(NotFoundError, match="Known models: tiny"):
                await client.models.retrieve("org/none")

        assert [model.id for model in listed.data] == ["tiny"] == [found.id]

    async def test_who_leaves_a_stream_frees_the_engine(self, door: Door) -> None:
        async with door.openai as client:
            stream = await client.chat.completions.create(messages=_HELLO, max_tokens=1900, stream=True, **_GREEDY)
            await anext(aiter(stream))
            before = _read(door.engine, "generation_tokens_total")
            await stream.close()
            await _until_running(door.engine, 0)

        assert _read(door.engine, "generation_tokens_total") - before < 1800

    async def test_who_leaves_before_the_answer_frees_the_engine(self, door: Door) -> None:
        before = _read(door.engine, "generation_tokens_total")
        async with door.openai as client, asyncio.TaskGroup() as group:
            asked = group.create_task(client.chat.completions.create(messages=_HELLO, max_tokens=1900, **_GREEDY))
            await _until_running(door.engine, 1)
            asked.cancel()
            await _until_running(door.engine, 0)

        assert _read(door.engine, "generation_tokens_total") - before < 1800


class TestAnthropic:
    async def test_messages_come_whole_and_as_a_stream(self, door: Door) -> None:
        asked: dict[str, Any] = {"model": "tiny", "messages": _HELLO, "max_tokens": 16}
        asked["extra_body"] = {"temperature": 0}
        async with door.anthropic as client:
            whole = await client.messages.create(**asked)
            async with client.messages.stream(**asked) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                last = await stream.get_final_message()

        assert whole.content[0].type == "text"
        assert text == whole.content[0].text
        assert (last.usage.input_tokens, last.usage.output_tokens) == (
            whole.usage.input_tokens,
            whole.usage.output_tokens,
        )
        assert last.stop_reason == whole.stop_reason

    async def test_tools_are_used(self, door: Door) -> None:
        tool: Any = {"name": "answer", "description": "Say it.", "input_schema": _SCHEMA, "strict": True}
        async with door.anthropic as client:
            message = await client.messages.create(
                model="tiny",
                messages=_HELLO,
                max_tokens=200,
                tools=[tool],
                tool_choice={"type": "any", "disable_parallel_tool_use": True},
            )

        used = next(block for block in message.content if block.type == "tool_use")
        assert used.name == "answer"
        assert used.input["ok"] in {True, False}

    async def test_tokens_are_counted_without_an_answer(self, door: Door) -> None:
        async with door.anthropic as client:
            counted = await client.messages.count_tokens(model="tiny", messages=_HELLO)
            message = await client.messages.create(model="tiny", messages=_HELLO, max_tokens=1)

        assert counted.input_tokens == message.usage.input_tokens

    async def test_errors_are_told_in_its_own_words(self, door: Door) -> None:
        async with door.anthropic as client:
            with pytest.raises(NoSuchModel) as refused:
                await client.messages.create(model="none", messages=_HELLO, max_tokens=1)

        assert isinstance(refused.value.body, dict)
        assert refused.value.body["error"]["type"] == "not_found_error"


class TestCurl:
    async def test_prints_a_stream_as_it_comes(self, door: Door) -> None:
        body = {"model": "tiny", "messages": _HELLO, "max_tokens": 8, "stream": True, "ignore_eos": True}

        head, content = await _curl(door.url + _CHAT, "-N", "-d", json.dumps(body))

        assert head.startswith("HTTP/1.1 200 ")
        assert "content-type: text/event-stream" in head.lower()
        assert content.endswith("data: [DONE]\n\n")

    async def test_sends_a_large_body_that_the_engine_answers(self, door: Door, tmp_path: Path) -> None:
        # The template does not show tools to the model, so that these are a large body and a short prompt.
        tool = {"type": "function", "function": {"name": "f", "description": "word " * 20_000, "parameters": _SCHEMA}}
        body = {"model": "tiny", "messages": _HELLO, "max_tokens": 4, "tools": [tool], "tool_choice": "none"}
        file = tmp_path / "body.json"
        file.write_text(json.dumps(body))

        head, content = await _curl(door.url + _CHAT, "-d", f"@{file}", "-H", "Expect: 100-continue")

        assert file.stat().st_size > 100_000
        assert head.startswith("HTTP/1.1 100 Continue")
        assert json.loads(content)["choices"][0]["message"]["content"]

    async def test_a_prompt_that_is_too_long_is_refused_as_the_engine_would(self, door: Door, tmp_path: Path) -> None:
        file = tmp_path / "body.json"
        file.write_text(json.dumps({"model": "tiny", "prompt": "hello you " * 10_000, "max_tokens": 4}))

        head, content = await _curl(door.url + _TEXT, "-d", f"@{file}")

        assert head.startswith("HTTP/1.1 400 ")
        assert json.loads(content) == door.engine.client.post(_TEXT, content=file.read_bytes(), headers=_JSON).json()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (_CHAT, {"messages": _HELLO}),
        (_CHAT, {"messages": _HELLO, "stream_options": {"include_usage": False}}),
        (_CHAT, {"messages": _HELLO, "logprobs": True, "top_logprobs": 1}),
        (_CHAT, {"messages": _HELLO, "tools": [_TOOL], "tool_choice": "none"}),
        (_CHAT, {"messages": _HELLO, "stream_options": {"include_usage": True}}),
        (_CHAT, {"messages": _HELLO, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
        (_CHAT, {"messages": _HELLO, "stream_options": {"include_usage": False, "continuous_usage_stats": True}}),
        (_TEXT, {"prompt": "Hello"}),
        (_TEXT, {"prompt": "Hello", "echo": True, "logprobs": 1}),
        (_RESPONSES, {"input": "Hello", "max_output_tokens": 12}),
        (_MESSAGES, {"messages": _HELLO}),
    ],
)
async def test_a_stream_is_the_engines_own_to_the_byte(door: Door, path: str, fields: dict[str, Any]) -> None:
    direct, *passed = await _ask_three_times(door, path, fields)

    assert direct == passed[0] == passed[1]


@pytest.mark.parametrize(
    ("path", "fields"), [(_CHAT, {"messages": _HELLO, "n": 2}), (_TEXT, {"prompt": ["Hello", "you"], "n": 2})]
)
async def test_so_are_streams_of_several_choices(door: Door, path: str, fields: dict[str, Any]) -> None:
    answers = await _ask_three_times(door, path, {**fields, "temperature": 1, "seed": 1})

    # Which of them is next is up to the engine, and how many tokens come at a time.
    direct, *passed = map(set, answers)
    assert direct == passed[0] == passed[1]


async def _ask_three_times(door: Door, path: str, fields: dict[str, Any]) -> list[list[str]]:
    """Ask the engine itself, then the gateway; the second time it knows how this engine ends its streams."""
    limit = {"max_tokens": 12} if path != _RESPONSES else {}
    body = {"model": "tiny", **limit, "temperature": 0, "ignore_eos": True, "stream": True, **fields}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answers = [
            await client.post(url + path, json=body)
            for url in (str(door.engine.client.base_url).rstrip("/"), door.url, door.url)
        ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.headers["content-type"] for answer in answers}) == 1
    return [_condense(answer.text) for answer in answers]


_JSON = {"Content-Type": "application/json"}
_TIMES = re.compile(r'("(?:id|item_id|created|created_at)":)("[^"]*"|\d+)')
_WORDS = re.compile(r'"(?:content|text|delta)":"(?:[^"\\]|\\.)*"')


def _condense(text: str) -> list[str]:
    """A stream without what differs each time: ids and times, and how many tokens the engine put into one event."""
    assert text.endswith("\n\n")
    events: list[str] = []
    for event in _TIMES.sub(r"\1", text).removesuffix("\n\n").split("\n\n"):
        form = _WORDS.sub("…", re.sub(r'"(sequence_number|completion_tokens|total_tokens)":\d+', "", event))
        form = re.sub(r'"logprobs":\{.*?\},"finish', '"logprobs":{},"finish', form)
        if form not in events:
            events.append(form)
    return events


def _without_seed() -> dict[str, Any]:
    return {name: value for name, value in _GREEDY.items() if name != "seed"}


def _read(engine: Engine, name: str) -> float:
    lines = engine.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{"))


async def _until_running(engine: Engine, count: int) -> None:
    while _read(engine, "num_requests_running") != count:  # noqa: ASYNC110  what is waited for happens behind a socket
        await asyncio.sleep(0.02)


async def _curl(url: str, *arguments: str) -> tuple[str, str]:
    """The head and the body of what curl gets."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-i", "--noproxy", "*", "-H", "Content-Type: application/json"),
        *arguments,
        url,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    *heads, content = output.decode().split("\r\n\r\n")
    return "\r\n\r\n".join(heads), content


@asynccontextmanager
async def _slicing(port: int) -> AsyncIterator[int]:
    """What stands between gateway and engine, and hands on answers a few bytes at a time."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as group:
                group.create_task(_hand_on(reader, far_writer, 1 << 16))
                group.create_task(_hand_on(far_reader, writer, _PIECE_BYTES))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> None:
    while piece := await reader.read(size):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    writer.close()
