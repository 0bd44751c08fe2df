"""The same requests to real vLLM and to engine-sim: what clients, gateway and operator rely on is the same."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from lull.core.sleeping import Call, build_sleep, list_wake_up
from tests.contract.conftest import Engine, Pair, Starter
from tests.contract.shapes import families_of, form_of

# The image may have to be built first, and two cores may be busy.
pytestmark = [pytest.mark.contract, pytest.mark.timeout(1500)]

_PAUSE = 0.05
_CHAT = "/v1/chat/completions"
_TEXT = "/v1/completions"
_HELLO = [{"role": "user", "content": "hi"}]


def _chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": _HELLO, "max_tokens": 12, "ignore_eos": True, **fields}


def _text(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "hi there", "max_tokens": 12, "ignore_eos": True, **fields}


def _response(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": "hi", "max_output_tokens": 12, "ignore_eos": True, **fields}


def _message(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": _HELLO, "max_tokens": 12, **fields}


_RESPONSES, _MESSAGES = "/v1/responses", "/v1/messages"
_USAGE = {"include_usage": True}
_USAGE_IN_EACH = {"include_usage": True, "continuous_usage_stats": True}
_REQUESTS: dict[str, tuple[str, str, Any]] = {
    "health": ("GET", "/health", None),
    "ping": ("GET", "/ping", None),
    "ping by post": ("POST", "/ping", None),
    "version": ("GET", "/version", None),
    "load": ("GET", "/load", None),
    "models": ("GET", "/v1/models", None),
    "key-value event sources": ("GET", "/kv_event_sources", None),
    "no such path": ("GET", "/nope", None),
    "no such method": ("GET", _CHAT, None),
    "tokenize": ("POST", "/tokenize", {"model": "tiny", "prompt": "Hello, how are you?"}),
    "tokenize a chat": ("POST", "/tokenize", {"model": "tiny", "messages": _HELLO}),
    "tokenize for an unknown model": ("POST", "/tokenize", {"model": "x", "prompt": "hi"}),
    "detokenize": ("POST", "/detokenize", {"model": "tiny", "tokens": [300, 301]}),
    "chat": ("POST", _CHAT, _chat()),
    "chat by alias": ("POST", _CHAT, _chat(model="tiny-alias")),
    "chat without a model": ("POST", _CHAT, {"messages": _HELLO, "max_tokens": 2}),
    "chat with max_completion_tokens": ("POST", _CHAT, {"messages": _HELLO, "max_completion_tokens": 2}),
    "chat with two choices": ("POST", _CHAT, _chat(n=2)),
    "chat with log-probabilities": ("POST", _CHAT, _chat(logprobs=True, top_logprobs=1)),
    # Long enough for some chunk to have no end in it, also where the machine is so busy that many tokens come at once.
    "chat stream": ("POST", _CHAT, _chat(stream=True, max_tokens=100)),
    "chat stream with usage": ("POST", _CHAT, _chat(stream=True, max_tokens=100, stream_options=_USAGE)),
    "chat stream with usage in each chunk": (
        "POST",
        _CHAT,
        _chat(stream=True, max_tokens=100, stream_options=_USAGE_IN_EACH),
    ),
    "chat stream with two choices": ("POST", _CHAT, _chat(stream=True, max_tokens=100, n=2)),
    "completion": ("POST", _TEXT, _text()),
    "completion of default length": ("POST", _TEXT, {"model": "tiny", "prompt": "hi"}),
    "completions of two prompts": ("POST", _TEXT, _text(prompt=["hi", "ho"], n=2)),
    "completion of tokens": ("POST", _TEXT, _text(prompt=[300, 301, 302])),
    "completion with log-probabilities": ("POST", _TEXT, _text(logprobs=1)),
    "completion stream": ("POST", _TEXT, _text(stream=True, max_tokens=100)),
    "completion stream with usage": ("POST", _TEXT, _text(stream=True, max_tokens=100, stream_options=_USAGE)),
    "completion stream with usage in each chunk": (
        "POST",
        _TEXT,
        _text(stream=True, max_tokens=100, stream_options=_USAGE_IN_EACH),
    ),
    "response": ("POST", _RESPONSES, _response()),
    "response to a conversation": ("POST", _RESPONSES, _response(input=_HELLO)),
    "response stream": ("POST", _RESPONSES, _response(stream=True)),
    "response without input": ("POST", _RESPONSES, {"model": "tiny"}),
    "response of an unknown model": ("POST", _RESPONSES, _response(model="x")),
    "response to a prompt that is too long": ("POST", _RESPONSES, _response(input="7 " * 5000)),
    "response after another": ("POST", _RESPONSES, _response(previous_response_id="resp_x")),
    "response in the background": ("POST", _RESPONSES, _response(background=True)),
    "an earlier response": ("GET", f"{_RESPONSES}/resp_x", None),
    "message": ("POST", _MESSAGES, _message()),
    "message stream": ("POST", _MESSAGES, _message(stream=True)),
    "message of an unknown model": ("POST", _MESSAGES, _message(model="x")),
    "message without a limit": ("POST", _MESSAGES, {"model": "tiny", "messages": _HELLO}),
    "message of no tokens": ("POST", _MESSAGES, _message(max_tokens=0)),
    "message of too many tokens": ("POST", _MESSAGES, _message(max_tokens=100_000)),
    "message without messages": ("POST", _MESSAGES, {"model": "tiny", "max_tokens": 4}),
    "message in an empty conversation": ("POST", _MESSAGES, _message(messages=[])),
    "message after one that is too long": (
        "POST",
        _MESSAGES,
        _message(messages=[{"role": "user", "content": "7 " * 5000}]),
    ),
    "counting tokens": ("POST", f"{_MESSAGES}/count_tokens", {"model": "tiny", "messages": _HELLO}),
    "counting an unknown model's tokens": ("POST", f"{_MESSAGES}/count_tokens", {"model": "x", "messages": _HELLO}),
    "embeddings of a model that generates": ("POST", "/v1/embeddings", {"model": "tiny", "input": "hi"}),
    "ranks by a model that generates": ("POST", "/rerank", {"model": "tiny", "query": "a", "documents": ["b"]}),
    "scores by a model that generates": ("POST", "/score", {"model": "tiny", "text_1": "a", "text_2": "b"}),
    "a model by its name": ("GET", "/v1/models/tiny", None),
    "invocation": ("POST", "/invocations", _chat()),
    "unknown model in a chat": ("POST", _CHAT, _chat(model="x")),
    "unknown model in a completion": ("POST", _TEXT, _text(model="x")),
    "unknown model in a stream": ("POST", _CHAT, _chat(model="x", stream=True)),
    "too many tokens": ("POST", _CHAT, _chat(max_tokens=100_000)),
    "no tokens": ("POST", _TEXT, _text(max_tokens=0)),
    "a prompt that is too long": ("POST", _TEXT, _text(prompt="7 " * 5000)),
    "a prompt that is far too long": ("POST", _TEXT, _text(prompt="hello you " * 10000)),
    "no messages": ("POST", _CHAT, {"model": "tiny"}),
    "an empty conversation": ("POST", _CHAT, _chat(messages=[])),
    "messages that are no list": ("POST", _CHAT, _chat(messages="x")),
    "no prompt": ("POST", _TEXT, {"model": "tiny"}),
    "no choices": ("POST", _TEXT, _text(n=0)),
    "a negative temperature": ("POST", _TEXT, _text(temperature=-1)),
    "stream options without a stream": ("POST", _TEXT, _text(stream_options=_USAGE)),
    "a body that is no JSON": ("POST", _CHAT, b"{nope"),
    "unloading an unknown adapter": ("POST", "/v1/unload_lora_adapter", {"lora_name": "nobody"}),
    "unloading without a name": ("POST", "/v1/unload_lora_adapter", {}),
    "unloading an empty name": ("POST", "/v1/unload_lora_adapter", {"lora_name": ""}),
    "loading without a path": ("POST", "/v1/load_lora_adapter", {"lora_name": "x"}),
    "loading an empty name": ("POST", "/v1/load_lora_adapter", {"lora_name": "", "lora_path": ""}),
    "loading what is not there": ("POST", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/nope"}),
    "loading under the model's name": (
        "POST",
        "/v1/load_lora_adapter",
        {"lora_name": "tiny", "lora_path": "FOLDER/lora-a"},
    ),
    "loading a rank too high": ("POST", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "FOLDER/lora-r64"}),
    "loading a wrong shape": ("POST", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "FOLDER/lora-badshape"}),
    "loading a wrong module": (
        "POST",
        "/v1/load_lora_adapter",
        {"lora_name": "x", "lora_path": "FOLDER/lora-badmodule"},
    ),
    "waking what is awake": ("POST", "/wake_up", None),
    "asking whether it sleeps": ("GET", "/is_sleeping", None),
    "asking whether it is paused": ("GET", "/is_paused", None),
    "sleeping at a wrong level": ("POST", "/sleep?level=7", None),
    "sleeping in a wrong way": ("POST", "/sleep?mode=foo", None),
    "emptying the prefix cache": ("POST", "/reset_prefix_cache", None),
}


@pytest.mark.parametrize("name", _REQUESTS)
def test_answers_alike(pair: Pair, name: str) -> None:
    method, path, body = _REQUESTS[name]

    real, sim = (form_of(_send(engine, method, path, body)) for engine in pair)

    assert sim == real


def test_adapters_live_alike(pair: Pair) -> None:
    def live(engine: Engine) -> list[Any]:
        def call(path: str, **fields: Any) -> httpx.Response:
            return engine.client.post(path, json=fields)

        adapter = {"lora_name": "lora-a", "lora_path": f"{engine.folder}/lora-a"}
        load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
        loaded, again = call(load, **adapter), call(load, **adapter)
        in_place = call(load, **{**adapter, "lora_path": f"{engine.folder}/lora-b", "load_inplace": True})
        models, chat = engine.client.get("/v1/models"), call(_CHAT, **_chat(model="lora-a"))
        gone, after = call(unload, lora_name="lora-a"), call(_CHAT, **_chat(model="lora-a"))
        answers = [loaded, again, in_place, models, chat, gone, after]
        texts = [loaded.text, again.text, in_place.text, gone.text, after.text]
        return [*map(form_of, answers), texts, chat.json()["model"]]

    real, sim = map(live, pair)

    assert sim == real


def test_unloading_leaves_an_open_stream_alone(pair: Pair) -> None:
    def live(engine: Engine) -> list[Any]:
        adapter = {"lora_name": "lora-b", "lora_path": f"{engine.folder}/lora-b"}
        engine.client.post("/v1/load_lora_adapter", json=adapter)
        with _background(engine, _chat(model="lora-b", max_tokens=500, stream=True)) as stream:
            _until(lambda: _gauge(engine, "num_requests_running") == 1)
            status = engine.client.post("/v1/unload_lora_adapter", json={"lora_name": "lora-b"}).status_code
            return [status, form_of(stream.result()), stream.result().text.count('finish_reason":"length"')]

    real, sim = map(live, pair)

    assert sim == real


def test_sleeps_and_wakes_alike(pair: Pair) -> None:
    def live(engine: Engine) -> list[Any]:
        post, get = engine.client.post, engine.client.get
        slept = post("/sleep?level=1")
        asleep, health = get("/is_sleeping").json(), get("/health").status_code
        half = post("/wake_up?tags=weights")
        still = get("/is_sleeping").json()
        whole = post("/wake_up?tags=kv_cache")
        awake = get("/is_sleeping").json()
        deeper, up = post("/sleep?level=2"), post("/wake_up")
        return [*map(form_of, (slept, half, whole, deeper, up)), slept.json(), asleep, health, still, awake, up.json()]

    real, sim = map(live, pair)

    assert sim == real


@pytest.mark.parametrize("level", [1, 2])
def test_wakes_as_lull_wakes_it_even_where_that_broke_off(pair: Pair, level: int) -> None:
    def live(engine: Engine) -> list[Any]:
        before = _say(engine)
        slept = _call(engine, build_sleep(level))
        asleep = engine.client.get("/is_sleeping").json()
        *first, last = list_wake_up(level)
        broken = [_call(engine, call) for call in first]
        half = engine.client.get("/is_sleeping").json()
        whole = [_call(engine, call) for call in (*first, last)]
        awake = engine.client.get("/is_sleeping").json()
        # What is awake may be told again.
        again = _call(engine, list_wake_up(1)[0])
        return [*map(form_of, (slept, *broken, *whole, again)), asleep, half, awake, _say(engine) == before]

    real, sim = map(live, pair)

    assert sim == real
    assert sim[-4:] == [{"is_sleeping": True}, {"is_sleeping": True}, {"is_sleeping": False}, True]


def test_sleep_as_lull_asks_for_it_waits_for_what_runs(pair: Pair) -> None:
    def live(engine: Engine) -> list[Any]:
        with _background(engine, _chat(max_tokens=300)) as running, ThreadPoolExecutor(1) as pool:
            _until(lambda: _gauge(engine, "num_requests_running") == 1)
            slept = pool.submit(_call, engine, build_sleep(1)).result()
            answer = running.result().json()["choices"][0]["finish_reason"]
            _call(engine, list_wake_up(1)[0])
        return [form_of(slept), answer]

    real, sim = map(live, pair)

    assert sim == real
    assert sim[-1] == "length"


def test_a_request_hangs_while_asleep_and_gauges_do_not_show_it(pair: Pair) -> None:
    def live(engine: Engine) -> list[Any]:
        engine.client.post("/sleep?level=1")
        with _background(engine, _chat()) as held:
            time.sleep(1.0)
            seen = [held.done(), _gauge(engine, "num_requests_running"), _gauge(engine, "num_requests_waiting")]
            health = engine.client.get("/health").status_code
            engine.client.post("/wake_up")
            return [*seen, health, held.result().status_code]

    real, sim = map(live, pair)

    assert sim == real
    assert sim == [False, 0.0, 0.0, 200, 200]


def test_sleep_ends_what_runs_with_abort(pair: Pair) -> None:
    def live(engine: Engine) -> list[Any]:
        with (
            _background(engine, _chat(max_tokens=1500, stream=True)) as stream,
            _background(engine, _chat(max_tokens=1500)) as whole,
        ):
            _until(lambda: _gauge(engine, "num_requests_running") == 2)
            engine.client.post("/sleep?level=1")
            text = stream.result().text
            reason = whole.result().json()["choices"][0]["finish_reason"]
            engine.client.post("/wake_up")
        return [form_of(stream.result()), text.count('"finish_reason":"abort"'), whole.result().status_code, reason]

    real, sim = map(live, pair)

    assert sim == real


def test_a_full_queue_refuses_alike(pair: Pair) -> None:
    def live(engine: Engine) -> list[Any]:
        with ThreadPoolExecutor(8) as pool:
            stop = threading.Event()
            for _ in range(8):
                pool.submit(_drink, engine, stop)
            _until(lambda: _gauge(engine, "num_requests_running") + _gauge(engine, "num_requests_waiting") == 8)
            waiting = _gauge(engine, "num_requests_waiting")
            load = engine.client.get("/load").json()
            refused = [engine.client.post(_CHAT, json=_chat(stream=stream)) for stream in (False, True)]
            health = engine.client.get("/health").status_code
            stop.set()
        _until(lambda: _gauge(engine, "num_requests_running") == 0)
        return [waiting, load, health, *map(form_of, refused), *(each.text for each in refused)]

    real, sim = map(live, pair)

    assert sim == real


def test_metrics_have_the_same_names_types_labels_and_buckets(pair: Pair) -> None:
    def live(engine: Engine) -> Any:
        adapter = {"lora_name": "lora-b", "lora_path": f"{engine.folder}/lora-b"}
        engine.client.post("/v1/load_lora_adapter", json=adapter)
        engine.client.post(_CHAT, json=_chat(model="lora-b"))
        engine.client.post("/v1/unload_lora_adapter", json={"lora_name": "lora-b"})
        engine.client.post("/sleep?level=1")
        engine.client.post("/wake_up")
        response = engine.client.get("/metrics")
        return response.headers["content-type"], families_of(response.text)

    (real_type, real), (sim_type, sim) = map(live, pair)

    # Counted from the first request with tools on, which another test may have sent.
    real = {name: family for name, family in real.items() if not name.startswith("vllm:tool_call_parser")}
    assert sim_type == real_type
    assert sorted(sim) == sorted(real)
    assert sim == real


def test_draining_says_healthy_refuses_and_finishes(start: Starter) -> None:
    def live(engine: Engine) -> list[Any]:
        with _background(engine, _chat(max_tokens=1500, stream=True)) as stream:
            _until(lambda: _gauge(engine, "num_requests_running") == 1)
            _terminate(engine)
            _until(lambda: _alone(engine, "POST", _CHAT, _chat(max_tokens=1)).status_code == 500)
            health = _alone(engine, "GET", "/health").status_code
            refused = _alone(engine, "POST", _CHAT, _chat(max_tokens=1))
            finished = stream.result().text.count('"finish_reason":"length"')
        return [health, form_of(refused), refused.text, finished, engine.process.wait(timeout=60)]

    with start(["--shutdown-timeout", "60"]) as both:
        real, sim = map(live, both)

    assert sim == real


def _send(engine: Engine, method: str, path: str, body: Any) -> httpx.Response:
    if body is None:
        return engine.client.request(method, path)
    content = body if isinstance(body, bytes) else json.dumps(body).replace("FOLDER", engine.folder).encode()
    return engine.client.request(method, path, content=content, headers={"Content-Type": "application/json"})


def _alone(engine: Engine, method: str, path: str, body: Any = None) -> httpx.Response:
    """Send on a connection of its own: vLLM closes one on which it met an error that it did not foresee."""
    return httpx.request(method, engine.client.base_url.join(path), json=body, trust_env=False, timeout=60)


@contextmanager
def _background(engine: Engine, body: dict[str, Any]) -> Iterator[Future[httpx.Response]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(engine.client.post, _CHAT, json=body, timeout=120)


def _call(engine: Engine, call: Call) -> httpx.Response:
    """What Lull's operator sends."""
    headers = {"Content-Type": "application/json"}
    # Two busy cores take longer over an answer than Lull would wait for it.
    return engine.client.post(
        call.path, params=dict(call.query), content=call.body or None, headers=headers, timeout=600
    )


def _say(engine: Engine) -> Any:
    return engine.client.post(_CHAT, json=_chat(temperature=0)).json()["choices"][0]["message"]["content"]


def _drink(engine: Engine, stop: threading.Event) -> None:
    """Keep a slot busy until told to leave."""
    with engine.client.stream("POST", _CHAT, json=_chat(max_tokens=2000, stream=True), timeout=120) as response:
        for _ in response.iter_raw():
            if stop.is_set():
                return


def _gauge(engine: Engine, name: str) -> float:
    lines = engine.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{"))


def _until(is_true: Callable[[], bool], seconds: float = 60) -> None:
    for _ in range(int(seconds / _PAUSE)):
        if is_true():
            return
        time.sleep(_PAUSE)
    pytest.fail("did not come true in time")


def _terminate(engine: Engine) -> None:
    """Send SIGTERM to the server itself, as a kubelet would, and not to what it was started with."""
    os.kill(_python_in(engine.process.pid) or engine.process.pid, signal.SIGTERM)


def _python_in(pid: int) -> int | None:
    """Find the first Python among a process and its descendants; a container that is not ours to see has none."""
    program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    if Path(program.decode()).name.startswith("python"):
        return pid
    children = (
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    )
    return next((found for child in children if (found := _python_in(int(child)))), None)
