"""What clients do in the scenarios: ask, stream, and keep asking; every answer is checked to be whole."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import openai

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openai.types.chat import ChatCompletion

    from e2e.lab import Lab


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
    """Errors before the first byte: none is ever right."""
    broken: list[str] = field(default_factory=list)
    """Streams that broke after their first byte with a well-formed error."""


@asynccontextmanager
async def load(
    lab: Lab, model: str, *, clients: int, tokens: int = 20, streaming: bool = True
) -> AsyncIterator[Outcome]:
    """Keep so many clients asking while the block runs; then let the last requests finish."""
    outcome = Outcome()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(
                _client(lab, model, outcome, stop, tokens=tokens, streaming=streaming and number % 2 == 0)
            )
        try:
            yield outcome
        finally:
            stop.set()


async def _client(lab: Lab, model: str, outcome: Outcome, stop: asyncio.Event, *, tokens: int, streaming: bool) -> None:
    while not stop.is_set():
        try:
            if streaming:
                await _stream_once(lab, model, tokens, outcome)
            else:
                await ask(lab, model, tokens=tokens)
                outcome.answered += 1
        except openai.APIError as error:
            outcome.failures.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.2)


async def _stream_once(lab: Lab, model: str, tokens: int, outcome: Outcome) -> None:
    chunks = await lab.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Say something."}],
        max_tokens=tokens,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    text = ""
    finished = False
    try:
        async for chunk in chunks:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finished = finished or choice.finish_reason is not None
    except openai.APIError as error:
        # The client library raises APIError for a well-formed SSE error event, and something else for a torn line.
        (outcome.broken if text else outcome.failures).append(str(error))
        return
    assert finished, "a stream ended without an error and without a finish reason"
    outcome.answered += 1
