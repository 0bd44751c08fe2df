"""What is left of a request when it is over: numbers, one line, and nothing of what was said."""

from __future__ import annotations

import asyncio
import json
import random
import string
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from lull.core.keys import make_token
from tests.fakes.engine import BODY, Gate, fail, stream, stream_then_die
from tests.hostile.raw import say
from tests.unit.gateway.conftest import NAMESPACE
from tests.unit.gateway.test_access import ask, entry, put_keys, wait_keys
from tests.unit.gateway.test_adapters import Engine, listing
from tests.unit.gateway.test_requests import CACHED, WILLING, add_two, goes_on, says

if TYPE_CHECKING:
    from tests.unit.gateway.conftest import World

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 5,
    "total_tokens": 25,
    "prompt_tokens_details": {"cached_tokens": 16},
}
EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


async def answer(request: web.BaseRequest) -> web.StreamResponse:
    """As an engine does that counts tokens."""
    body = orjson.loads(request[BODY])
    if not body.get("stream"):
        return web.json_response({"object": "chat.completion", "choices": [], "usage": USAGE})
    asked = body.get("stream_options", {}).get("include_usage")
    usage = b"data: " + orjson.dumps({"choices": [], "usage": USAGE}) + b"\n\n"
    return await stream(request, EVENT, EVENT, *([usage] if asked else []), DONE)


async def read(world: World) -> dict[tuple[str, ...], float]:
    """Values of the gateway's own series: name without prefix, then the labels' values, sorted by label."""
    async with world.session.get(f"{world.admin}/metrics") as response:
        text = await response.text()
    return {
        (
            sample.name.removeprefix("lull_gateway_"),
            *(value for _, value in sorted(sample.labels.items())),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("lull_gateway_")
    }


def read_lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    lines = capfd.readouterr().out.splitlines()
    return [line for text in lines if text.startswith("{") and (line := json.loads(text))["event"] == "request"]


async def test_tokens_are_counted_whether_the_client_asked_for_them_or_not(world: World) -> None:
    world.add_model()
    await world.add_engine(answer)
    await world.wait_listed()
    _, whole = await world.ask()
    _, hidden = await world.ask(stream=True)
    _, wanted = await world.ask(stream=True, stream_options={"include_usage": True})

    counted = await read(world)

    assert (b"usage" in whole, b"usage" in hidden, b"usage" in wanted) == (True, False, True)
    assert counted["input_tokens_total", "", "llama", NAMESPACE] == 60
    assert counted["cached_tokens_total", "", "llama", NAMESPACE] == 48
    assert counted["output_tokens_total", "", "llama", NAMESPACE] == 15
    assert counted["key_output_tokens_total", "", "llama", NAMESPACE] == 15
    assert counted["key_requests_total", "200", ""] >= 3
    assert counted["first_byte_seconds_count", "llama", NAMESPACE] == 3
    assert counted["time_to_first_token_seconds_count", "llama", NAMESPACE] == 2
    assert counted["time_per_output_token_seconds_count", "llama", NAMESPACE] == 2
    assert counted["request_seconds_count", "llama", NAMESPACE] == 3


async def test_tokens_of_adapters_are_told_apart(world: World) -> None:
    async def answer_or_list(request: web.BaseRequest) -> web.StreamResponse:
        return await (Engine("fr")(request) if request.path == "/v1/models" else answer(request))

    world.add_model(**listing("fr"))
    await world.add_engine(answer_or_list)
    await world.wait_listed("fr")
    await world.ask(model="fr")

    counted = await read(world)

    assert counted["input_tokens_total", "fr", "llama", NAMESPACE] == 20
    assert counted["input_tokens_total", "", "llama", NAMESPACE] == 0
    assert counted["adapter_requests_total", "fr", "200", "llama", NAMESPACE] == 1


async def test_what_the_gateway_refuses_is_counted_by_its_code(world: World) -> None:
    world.add_model()
    world.add_model("small", queue={"maxHeld": 0})
    await world.wait_listed("small")
    await world.ask(model="made-up")
    await world.ask(model="small")
    async with world.session.post(f"{world.url}/v1/chat/completions", data=b"{") as response:
        assert response.status == 400

    counted = await read(world)

    assert counted["refused_total", "", "", "model_not_found"] == 1
    assert counted["refused_total", "", "", "invalid_json"] == 1
    assert counted["refused_total", "small", NAMESPACE, "queue_full"] == 1


async def test_retries_are_counted_by_what_failed(world: World) -> None:
    world.add_model()
    await world.add_engine(fail(503, "busy"), pod="pod-1")
    await world.add_engine(answer, pod="pod-2")
    await world.wait_listed()
    for _ in range(2):
        assert (await world.ask())[0] == 200

    assert (await read(world))["retries_total", "llama", NAMESPACE, "refused"] == 1


class TestKeys:
    async def test_requests_and_tokens_are_counted_for_each_key(
        self, running: Any, capfd: pytest.CaptureFixture[str]
    ) -> None:
        async with running() as world:
            put_keys(world, team_a=entry(requests_per_minute=2))
            world.add_model()
            await world.add_engine(answer)
            await wait_keys(world)
            for _ in range(3):
                async with ask(world) as response:
                    await response.read()

            counted = await read(world)

        assert counted["key_requests_total", "429", "team-a"] == 1
        assert counted["key_limited_total", "team-a", "requests"] == 1
        assert counted["key_input_tokens_total", "team-a", "llama", NAMESPACE] == 40
        assert counted["refused_total", "llama", NAMESPACE, "rate_limit_exceeded"] == 1
        assert [line["key"] for line in read_lines(capfd) if line["deployment"]] == ["team-a"] * 3

    async def test_nothing_is_left_of_a_key_that_was_revoked(self, world: World) -> None:
        token = make_token("team-b", random.choice)
        put_keys(world, team_b=entry(token))
        world.add_model()
        await world.add_engine(answer)
        await wait_keys(world, token=token)
        async with ask(world, token) as response:
            await response.read()
        mine = {("key_requests_total", "200", "team-b"), ("key_output_tokens_total", "team-b", "llama", NAMESPACE)}
        assert mine <= (await read(world)).keys()

        put_keys(world)

        async with asyncio.timeout(5):
            while mine & (await read(world)).keys():  # noqa: ASYNC110  what is waited for happens behind a socket
                await asyncio.sleep(0.01)


async def test_detours_are_counted_by_cause(running: Any, capfd: pytest.CaptureFixture[str]) -> None:
    async with running() as world:
        await add_two(world, fallback=["small"])
        await world.ask()

        counted = await read(world)

    assert counted["fallbacks_total", "cold", "llama", NAMESPACE] == 1
    assert counted["requests_total", "200", "small", NAMESPACE] == 1
    (line,) = (line for line in read_lines(capfd) if line["deployment"])
    assert (line["model"], line["served"], line["deployment"]) == ("llama", "small", f"{NAMESPACE}/small")


async def test_lookups_are_counted_by_what_was_found(running: Any, capfd: pytest.CaptureFixture[str]) -> None:
    async with running() as world:
        world.add_model(**CACHED)
        await world.add_engine(answer)
        await world.wait_listed()
        for _ in range(3):
            await world.ask(temperature=0)

        counted = await read(world)

    assert counted["cache_lookups_total", "llama", NAMESPACE, "miss"] == 1
    assert counted["cache_lookups_total", "llama", NAMESPACE, "hit"] == 2
    assert counted["input_tokens_total", "", "llama", NAMESPACE] == 20
    lines = [line for line in read_lines(capfd) if line["deployment"]]
    assert [(line["cache"], line["input_tokens"], line["tries"]) for line in lines] == [
        ("miss", 20, 1),
        ("hit", None, 0),
        ("hit", None, 0),
    ]


async def test_streams_that_go_on_elsewhere_are_counted(world: World) -> None:
    world.add_model(**WILLING)
    first = await world.add_engine(stream_then_die(says("", role="assistant"), says("Be"), says("cause ")))
    await world.wait_listed()
    async with asyncio.TaskGroup() as group:
        group.create_task(world.ask(stream=True, max_tokens=9))
        await world.until(lambda: first.received)
        await world.add_engine(goes_on(" it", " is."), pod="pod-2")

    counted = await read(world)

    assert counted["continued_total", "llama", NAMESPACE] == 1
    assert not any(name == "aborted_total" for name, *_ in counted)


class TestAborted:
    async def test_by_the_engine(self, world: World) -> None:
        world.add_model()
        await world.add_engine(stream_then_die(EVENT))
        await world.wait_listed()
        await world.ask(stream=True)

        assert (await read(world))["aborted_total", "engine", "llama", NAMESPACE, "streaming"] == 1

    async def test_by_the_client(self, world: World) -> None:
        world.add_model()
        gate = Gate()
        await world.add_engine(gate)
        await world.wait_listed()
        leaving = asyncio.ensure_future(world.ask())
        await gate.entered.wait()
        leaving.cancel()
        await world.settle(inFlight=0)

        counted = await read(world)

        assert counted["aborted_total", "client", "llama", NAMESPACE, "waiting"] == 1
        assert counted["requests_total", "499", "llama", NAMESPACE] == 1

    async def test_by_the_gateway(self, running: Any, capfd: pytest.CaptureFixture[str]) -> None:
        gate = Gate()
        async with running(drain_seconds=0) as world:
            world.add_model()
            await world.add_engine(gate)
            await world.wait_listed()
            asked = asyncio.ensure_future(world.ask())
            await gate.entered.wait()
            world.stop.set()
            await asyncio.wait({asked})
            assert asked.exception() is not None

        (line,) = (line for line in read_lines(capfd) if line["deployment"])
        assert (line["code"], line["stage"], line["aborted_by"]) == (499, "waiting", "gateway")


MADE_UP = (
    *("LLAMA", "llama ", " llama", "llama\x00", "llam\u0430", f"{NAMESPACE}/llama", "../llama", "x" * 10_000, "_other"),
    *('x"} 1', "x\n# EOF", "{}", "$(id)", "\U0001f999"),
)


async def test_what_clients_make_up_makes_no_series(world: World) -> None:
    """Only statuses and codes of refusals, and those without a name."""
    dice = random.Random(7)
    made_up = [*MADE_UP, *("".join(dice.choices(string.printable, k=dice.randrange(1, 40))) for _ in range(40))]
    world.add_model()
    await world.add_engine(answer)
    await world.wait_listed()
    await world.ask()
    before = set(await read(world))
    for name in made_up:
        await world.ask(model=name)
        headers = {"authorization": f"Bearer {quote(name)}", "x-request-id": quote(name), "x-lull-timeout": quote(name)}
        path = quote(name[:100], safe="")
        async with world.session.get(f"{world.url}/{path}", headers=headers):
            pass

    made = {series for series in set(await read(world)) - before if series[0] != "key_requests_total"}

    assert {(name, *labels[:-1]) for name, *labels in made if name == "refused_total"} <= {("refused_total", "", "")}
    assert all(labels[-2:] == ["", ""] for name, *labels in made if name == "requests_total")
    assert {name for name, *_ in made} <= {"requests_total", "refused_total"}
    assert len(made) < 10


async def test_the_line_of_a_request(running: Any, capfd: pytest.CaptureFixture[str]) -> None:
    async with running() as world:
        world.add_model()
        await world.add_engine(answer)
        await world.wait_listed()
        headers = {"x-request-id": "r-1", "authorization": "Bearer llmk_alice_0123456789"}
        body = {"model": "llama", "stream": True, "messages": [{"role": "user", "content": "tell nobody"}]}
        async with world.session.post(
            f"{world.url}/v1/chat/completions?word=tell-nobody-either", json=body, headers=headers
        ) as response:
            await response.read()

    output = capfd.readouterr().out
    assert "nobody" not in output
    assert "llmk_" not in output
    (line,) = (json.loads(text) for text in output.splitlines() if '"r-1"' in text)
    times = {name for name in line if name.endswith("seconds")}
    assert all(isinstance(line.pop(name), float) for name in times)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "request_id": "r-1",
        "trace_id": None,
        "key": None,
        "path": "/v1/chat/completions",
        "model": "llama",
        "deployment": f"{NAMESPACE}/llama",
        "served": None,
        "code": 200,
        "stream": True,
        "stage": "streaming",
        "aborted_by": None,
        "bytes": len(json.dumps(body)),
        "input_tokens": 20,
        "cached_tokens": 16,
        "output_tokens": 5,
        "tries": 1,
        "endpoint": "pod-1",
        "cache": None,
        "error": None,
        "event": "request",
        "logger": "lull.gateway",
        "level": "info",
    }


HEAD = b"POST /v1/messages?word=tell-nobody HTTP/1.1\r\nX-Request-Id: r-1\r\nHost: gateway\r\n"
REFUSED_EARLY = {
    "invalid_http": (400, "/v1/messages", HEAD + b"X : y\r\n\r\n"),
    "invalid_host": (400, "/v1/messages", HEAD.replace(b": gateway", b": a b") + b"\r\n"),
    "http_version": (400, "/v1/messages", HEAD.replace(b"/1.1", b"/2.0") + b"\r\n"),
    "repeated_header": (400, "/v1/messages", HEAD + b"Host: gateway\r\n\r\n"),
    "method_not_allowed": (405, "a:80", b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nX-Request-Id: r-1\r\n\r\n"),
    "head_timeout": (408, "/v1/messages", HEAD),
    "body_timeout": (408, "/v1/messages", HEAD + b"Content-Length: 2\r\n\r\n{"),
    "body_too_large": (413, "/v1/messages", HEAD + b"Content-Length: 4097\r\n\r\n"),
    "unsupported_encoding": (415, "/v1/messages", HEAD + b"Content-Encoding: gzip\r\n\r\n"),
    "expectation_failed": (417, "/v1/messages", HEAD + b"Expect: 200-ok\r\n\r\n"),
    "headers_too_large": (431, "/v1/messages", HEAD + b"X: y\r\n" * 100),
    "overloaded": (503, "/v1/messages", HEAD + b"Content-Length: 3000\r\n\r\n"),
}


async def test_a_request_that_is_never_all_there_is_counted_and_logged_too(
    running: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    limits = {"max_body_bytes": 4096, "max_pending_bytes": 2048, "head_seconds": 0.1, "body_seconds": 0.1}
    async with running(access_log="errors", **limits) as world:
        heard = await asyncio.gather(*(say(world.settings.port, sent) for _, _, sent in REFUSED_EARLY.values()))
        counted = await read(world)

    output = capfd.readouterr().out
    assert "nobody" not in output
    lines = [json.loads(text) for text in output.splitlines() if '"r-1"' in text]
    told = {
        (line["code"], line["path"], line["error"], line["key"], line["deployment"], line["stream"], line["stage"])
        for line in lines
    }
    messages = [orjson.loads(one.answers[0].body)["error"]["message"] for one in heard]
    assert told == {
        (status, path, message, None, None, None, "receiving")
        for (status, path, _), message in zip(REFUSED_EARLY.values(), messages, strict=True)
    }
    assert len(lines) == len(REFUSED_EARLY)
    assert {reason: counted["refused_total", "", "", reason] for reason in REFUSED_EARLY} == dict.fromkeys(
        REFUSED_EARLY, 1
    )
    statuses = Counter(str(status) for status, _, _ in REFUSED_EARLY.values())
    assert {code: counted["requests_total", code, "", ""] for code in statuses} == statuses
    assert {code: counted["key_requests_total", code, ""] for code in statuses} == statuses


async def test_what_is_no_request_at_all_is_counted_and_logged_without_a_path(
    running: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(access_log="errors") as world:
        target = b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
        noise, long = await asyncio.gather(*(say(world.settings.port, sent) for sent in (b"\x16\x03\x01", target)))
        counted = await read(world)

    (first, second) = sorted(read_lines(capfd), key=lambda line: line["code"])
    assert (first["code"], first["path"], first["request_id"]) == (
        400,
        "",
        noise.answers[0].headers["x-request-id"],
    )
    assert (second["code"], second["path"], second["request_id"]) == (
        414,
        "/" + "x" * 127,
        long.answers[0].headers["x-request-id"],
    )
    assert counted["refused_total", "", "", "invalid_http"] == counted["refused_total", "", "", "uri_too_long"] == 1


@pytest.mark.parametrize(("access_log", "codes"), [("all", [200, 404]), ("errors", [404]), ("off", [])])
async def test_requests_get_a_line_as_is_set(
    running: Any, capfd: pytest.CaptureFixture[str], access_log: str, codes: list[int]
) -> None:
    async with running(access_log=access_log) as world:
        world.add_model()
        await world.add_engine(answer)
        await world.wait_listed()
        await world.ask()
        await world.ask(model="made-up")

    assert [line["code"] for line in read_lines(capfd) if line["path"] == "/v1/chat/completions"] == codes
