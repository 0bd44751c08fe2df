"""What clients do in the scenarios: ask, stream, and keep asking; every answer is checked to be whole."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openai.types.chat import ChatCompletion

    from e2e.lab import Lab

PATIENCE: Final = aiohttp.ClientTimeout(total=600)


async def ask(lab: Lab, model: str, *, tokens: int = 8) -> ChatCompletion:
    """One chat completion, checked to have as many tokens as were asked for."""
    answer = await lab.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Say something."}],
        max_tokens=tokens,
        extra_body={"ignore_eos": True},
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == tokens
    return answer


async def stream(lab: Lab, model: str, *, tokens: int = 8) -> str:
    """One streamed chat completion to its end; the text."""
    chunks = await lab.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Say something."}],
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    text, usage = "", 0
    async for chunk in chunks:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage.completion_tokens if chunk.usage else usage
    assert usage == tokens, f"the stream ended after {usage} of {tokens} tokens"
    return text


@dataclass
class Outcome:
    """How a load went, request by request."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    """Errors before the first byte, and answers that are not well-formed: none is ever right."""
    broken: list[str] = field(default_factory=list)
    """Streams that broke after their first byte with a well-formed error."""
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = self.answered / self.seconds
        return f"{self.answered} answered, {rate:.0f} a second; {len(self.broken)} broken in the middle"


@asynccontextmanager
async def load(
    lab: Lab, model: str, *, clients: int, tokens: int = 20, rate: float | None = None
) -> AsyncIterator[Outcome]:
    """Keep so many clients asking while the block runs; then let the last requests finish.

    Every other client streams. All together ask no more than `rate` times a second, where one is given. It is no
    official client that asks: that takes more of a processor for a request than gateway and engine together.
    """
    outcome = Outcome()
    pace = _Pace(rate)
    stop = asyncio.Event()
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(_client(lab, _body(model, tokens, stream=number % 2 == 0), outcome, stop, pace))
        try:
            yield outcome
        finally:
            stop.set()
    outcome.seconds = time.monotonic() - began


class _Pace:
    """Turns at even distances; those that nobody took are lost."""

    def __init__(self, rate: float | None) -> None:
        self._every = 0.0 if rate is None else 1 / rate
        self._next = 0.0

    async def wait(self) -> None:
        now = time.monotonic()
        at = max(self._next, now)
        self._next = at + self._every
        await asyncio.sleep(at - now)


def _body(model: str, tokens: int, *, stream: bool) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": tokens,
        "stream": stream,
        "ignore_eos": True,
    }


async def _client(lab: Lab, body: dict[str, Any], outcome: Outcome, stop: asyncio.Event, pace: _Pace) -> None:
    while not stop.is_set():
        await pace.wait()
        failures = len(outcome.failures)
        try:
            async with lab.session.post(f"{lab.gateway}/v1/chat/completions", json=body, timeout=PATIENCE) as response:
                _judge(outcome, body, response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            outcome.failures.append(f"{type(error).__name__}: {error}")
        if len(outcome.failures) > failures:
            await asyncio.sleep(0.2)


def _judge(outcome: Outcome, body: dict[str, Any], status: int, content: bytes) -> None:
    """What one answer was: whole, broken in the middle by a well-formed error, or a failure."""
    if status != 200:
        outcome.failures.append(f"{status}: {content[:500]!r}")
    elif not body["stream"]:
        tokens = orjson.loads(content)["usage"]["completion_tokens"]
        assert tokens == body["max_tokens"], f"{tokens} of {body['max_tokens']} tokens"
        outcome.answered += 1
    else:
        _judge_stream(outcome, content)


def _judge_stream(outcome: Outcome, content: bytes) -> None:
    *events, rest = content.split(b"\n\n")
    assert rest == b"", f"a stream ended within an event: {rest[:200]!r}"
    said = [event.removeprefix(b"data: ") for event in events if not event.startswith(b":")]
    is_done = said[-1] == b"[DONE]"
    chunks = [orjson.loads(event) for event in (said[:-1] if is_done else said)]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    if not is_done:
        assert "error" in chunks[-1], f"a stream ended without an error and without [DONE]: {said[-1][:200]!r}"
        (outcome.broken if choices else outcome.failures).append(str(chunks[-1]["error"]))
        return
    assert choices[-1]["finish_reason"] is not None, "a stream ended without a finish reason"
    outcome.answered += 1
