"""Real vLLM goes on with what another one has begun, as if one engine had said it all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from lull.gateway.continuing import Listener
from lull.wire.openai import parse_call
from lull.wire.sse import EventReader
from lull.wire.usage import ask_for_usage
from tests.contract.conftest import Engine, Pair

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "stream": True, "max_tokens": 24, "ignore_eos": True}
ASKED = {
    CHAT: {**GREEDY, "messages": [{"role": "user", "content": "Tell me a story about a robot."}]},
    COMPLETIONS: {**GREEDY, "prompt": "Once there was a"},
}


def stream(engine: Engine, path: str, body: bytes) -> list[bytes]:
    with engine.client.stream("POST", path, content=body, headers={"content-type": "application/json"}) as answer:
        content = answer.read()
    assert answer.status_code == 200, content
    return [event + b"\n\n" for event in content.split(b"\n\n") if event]


def parse(run: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix(b"data: ") for line in run.split(b"\n\n") if line]
    assert lines.count(b"[DONE]") == 1
    assert lines[-1] == b"[DONE]"
    return [orjson.loads(line) for line in lines[:-1]]


def text(events: list[dict[str, Any]]) -> str:
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" if "delta" in choice else choice["text"] for choice in choices)


def ask(engine: Engine, path: str, body: bytes) -> list[bytes]:
    """What comes of a stream that may be continued, asked for and read as the gateway does it."""
    call = parse_call(path, body)
    reader = EventReader(path, strip_usage=call.hides_usage, leaves_each=True)
    return [reader.read(event).whole for event in stream(engine, path, ask_for_usage(call, body, each=True))]


def break_and_go_on(engine: Engine, path: str, content: dict[str, Any], at: int) -> list[Any]:
    """What a client sees whose engine died after so many events."""
    body = orjson.dumps(content)
    listener = Listener(path, body)
    seen = listener(b"".join(ask(engine, path, body)[:at]))
    continued = listener.continue_()
    assert continued is not None
    rest = b"".join(listener(event) for event in ask(engine, path, continued))
    return parse(seen + rest)


@pytest.fixture(scope="session")
def words(models: Path) -> list[int]:
    """Tokens that are a word with the space before it: text of these is cut into the same tokens again.

    The tiny model's weights are random, and so is what it writes; a trained one writes words by itself.
    """
    vocabulary: dict[str, int] = orjson.loads((models / "model" / "tokenizer.json").read_bytes())["model"]["vocab"]
    return sorted(number for token, number in vocabulary.items() if re.fullmatch("Ġ[A-Za-z]{2,}", token))


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}], ids=["", "with usage"])
def test_a_client_sees_one_unbroken_answer(pair: Pair, words: list[int], path: str, options: dict[str, Any]) -> None:
    content = {**ASKED[path], **options, "allowed_token_ids": words}
    whole = stream(pair.real, path, orjson.dumps(content))
    unbroken = parse(b"".join(whole))

    for at in (2, 5, 17):
        seen = break_and_go_on(pair.real, path, content, at)
        choices = [choice for event in seen for choice in event["choices"]]
        assert text(seen) == text(unbroken)
        assert len({(event["id"], event["created"]) for event in seen}) == 1
        assert {tuple(event) for event in seen} == {tuple(event) for event in unbroken}
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
        assert sum("role" in choice.get("delta", {}) for choice in choices) == (path == CHAT)
        assert seen[-1].get("usage") == unbroken[-1].get("usage")
