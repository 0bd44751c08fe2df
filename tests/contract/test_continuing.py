"""Real vLLM goes on with what another one has begun, as if one engine had said it all."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from lull.gateway.continuing import Listener
from tests.contract.conftest import Engine, Pair

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "stream": True, "max_tokens": 48, "ignore_eos": True}
ASKED = {
    CHAT: {**GREEDY, "messages": [{"role": "user", "content": "Tell me of the sea and the wind."}]},
    COMPLETIONS: {**GREEDY, "prompt": "Once upon a time there was a"},
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


def break_and_go_on(engine: Engine, path: str, content: dict[str, Any], whole: list[bytes], at: int) -> list[Any]:
    """What a client sees whose engine died after so many events."""
    listener = Listener(path, orjson.dumps(content))
    seen = listener(b"".join(whole[:at]))
    body = listener.continue_()
    assert body is not None
    rest = b"".join(listener(event) for event in stream(engine, path, body))
    return parse(seen + rest)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("usage", [{}, {"stream_options": {"include_usage": True}}], ids=["", "with usage"])
def test_a_client_sees_one_unbroken_answer(pair: Pair, path: str, usage: dict[str, Any]) -> None:
    content = {**ASKED[path], **usage}
    whole = stream(pair.real, path, orjson.dumps(content))
    unbroken = parse(b"".join(whole))

    for at in (2, 3, 7, 20, 40):
        seen = break_and_go_on(pair.real, path, content, whole, at)
        assert {event["id"] for event in seen} == {unbroken[0]["id"]}
        assert {event["created"] for event in seen} == {unbroken[0]["created"]}
        assert [c["finish_reason"] for event in seen for c in event["choices"] if c["finish_reason"]] == ["length"]
        assert sum("role" in c.get("delta", {}) for event in seen for c in event["choices"]) == (path == CHAT)
        print("AT", at, text(seen) == text(unbroken), repr(text(seen))[:300], repr(text(unbroken))[:300])
        print("USAGE", seen[-1].get("usage"), unbroken[-1].get("usage"))
