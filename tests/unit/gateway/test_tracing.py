"""Spans, as a collector gets them."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from lull import doors
from lull.gateway import server
from tests.fakes.collector import Collector, attributes, collecting
from tests.fakes.engine import die
from tests.hostile.raw import say
from tests.unit.gateway.conftest import NAMESPACE
from tests.unit.gateway.test_counting import answer, read_lines
from tests.unit.gateway.test_requests import add_two

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.unit.gateway.conftest import World

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
CONTEXT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}


@pytest.fixture
def traced(running: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    @asynccontextmanager
    async def run(**overrides: Any) -> AsyncIterator[tuple[World, Collector]]:
        """Spans are all there when the block is over."""
        with collecting() as collector:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
            async with running(**overrides) as world:
                yield world, collector

    return run


async def test_a_request_is_one_span_and_its_try_another(traced: Any, capfd: pytest.CaptureFixture[str]) -> None:
    async with traced() as (world, collector):
        world.add_model()
        engine = await world.add_engine(answer)
        await world.wait_listed()
        async with world.chat("tell nobody", stream=True, model="llama") as response:
            await response.read()

    (request,) = (span for span in collector.requests if span.name == "POST /v1/chat/completions")
    (tried,) = collector.tries
    assert request.parent_span_id == b""
    assert tried.parent_span_id == request.span_id
    assert tried.trace_id == request.trace_id
    # The last part says that it is sampled, and that its id is random.
    assert engine.received[-1].headers["traceparent"] == f"00-{tried.trace_id.hex()}-{tried.span_id.hex()}-03"
    assert [event.name for event in request.events] == ["first_token"]
    assert tried.name == "chat llama"
    assert attributes(tried) == pytest.approx(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": "llama",
            "gen_ai.request.stream": True,
            "gen_ai.response.time_to_first_chunk": attributes(tried)["gen_ai.response.time_to_first_chunk"],
            "gen_ai.usage.input_tokens": 20,
            "gen_ai.usage.output_tokens": 5,
            "gen_ai.usage.cache_read.input_tokens": 16,
            "server.address": "127.0.0.1",
            "server.port": engine.port,
            "k8s.pod.name": "pod-1",
            "lull.try": 1,
        }
    )
    told = attributes(request)
    assert (told["http.response.status_code"], told["lull.deployment"]) == (200, "llama")
    assert (told["k8s.namespace.name"], told["gen_ai.usage.output_tokens"]) == (NAMESPACE, 5)
    assert request.start_time_unix_nano <= tried.start_time_unix_nano
    assert tried.end_time_unix_nano <= request.end_time_unix_nano
    assert all("nobody" not in str(span) for span in collector.spans)
    assert collector.resources[0]["service.name"] == "lull-gateway"
    assert collector.resources[0]["service.instance.id"] == "gateway-1"
    lines = [line["trace_id"] for line in read_lines(capfd) if line["deployment"]]
    assert lines == [request.trace_id.hex()]


async def test_a_trace_that_the_client_began_goes_on(traced: Any) -> None:
    async with traced() as (world, collector):
        world.add_model()
        engine = await world.add_engine(answer)
        await world.wait_listed()
        body = {"model": "llama", "messages": []}
        async with world.session.post(f"{world.url}/v1/chat/completions", json=body, headers=CONTEXT) as response:
            await response.read()

    (request,) = (span for span in collector.requests if span.trace_id.hex() == TRACE)
    assert request.parent_span_id.hex() == PARENT
    (tried,) = collector.tries
    assert engine.received[-1].headers["traceparent"] == f"00-{TRACE}-{tried.span_id.hex()}-01"
    assert engine.received[-1].headers["tracestate"] == "vendor=1"


async def test_a_trace_that_the_client_does_not_want_is_not_sent(traced: Any) -> None:
    async with traced() as (world, collector):
        world.add_model()
        engine = await world.add_engine(answer)
        await world.wait_listed()
        body = {"model": "llama", "messages": []}
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        async with world.session.post(f"{world.url}/v1/chat/completions", json=body, headers=headers) as response:
            await response.read()

    assert all(span.trace_id.hex() != TRACE for span in collector.spans)
    passed_on = engine.received[-1].headers["traceparent"]
    assert passed_on.startswith(f"00-{TRACE}-")
    assert passed_on.endswith("-00")


async def test_a_request_that_is_never_all_there_is_a_span_of_the_trace_that_it_belongs_to(traced: Any) -> None:
    context = b"".join(f"{name}: {value}\r\n".encode() for name, value in CONTEXT.items())
    async with traced() as (world, collector):
        await say(world.settings.port, b"GET /v1/models HTTP/1.1\r\n" + context + b"Expect: more\r\nHost: a\r\n\r\n")
        await say(world.settings.port, b"\x16\x03\x01")

    (known,) = (span for span in collector.requests if span.trace_id.hex() == TRACE)
    assert (known.name, attributes(known)["http.response.status_code"]) == ("GET", 417)
    (noise,) = (span for span in collector.requests if span.name == "HTTP")
    assert attributes(noise)["http.request.method"] == "_OTHER"


async def test_each_try_is_a_span(traced: Any) -> None:
    async with traced() as (world, collector):
        world.add_model()
        failing = await world.add_engine(die, pod="pod-1")
        await world.add_engine(answer, pod="pod-2")
        await world.wait_listed()
        while not failing.received:
            assert (await world.ask())[0] == 200

    failed = [span for span in collector.tries if span.status.code == Status.STATUS_CODE_ERROR]
    assert [attributes(span)["error.type"] for span in failed] == ["broken"]
    (last,) = (
        span for span in collector.tries if span.parent_span_id == failed[0].parent_span_id and span != failed[0]
    )
    assert attributes(last)["k8s.pod.name"] == "pod-2"
    assert attributes(last)["lull.try"] == 2


async def test_another_model_is_asked_within_the_same_trace(traced: Any) -> None:
    async with traced(max_tries=1) as (world, collector):
        await add_two(world, fallback=["small"])
        broken = await world.add_engine(die)
        while not broken.received:
            assert (await world.ask())[0] == 200

    tries = collector.tries[-2:]
    assert tries[0].trace_id == tries[1].trace_id
    assert [attributes(span)["k8s.pod.name"] for span in tries] == ["pod-1", "small-1"]
    request = collector.requests[-1]
    assert attributes(request)["gen_ai.request.model"] == "llama"
    assert attributes(request)["gen_ai.response.model"] == "small"
    assert request.status.code == Status.STATUS_CODE_UNSET


async def test_the_time_in_line_is_told(traced: Any) -> None:
    async with traced() as (world, collector):
        world.add_model()
        await world.wait_listed()
        asked = asyncio.ensure_future(world.ask())
        await world.settle(held=1)
        await world.add_engine(answer)
        assert (await asked)[0] == 200

    (request,) = (span for span in collector.requests if attributes(span).get("lull.held_seconds"))
    held, granted = request.events
    assert (held.name, granted.name) == ("held", "granted")
    assert request.start_time_unix_nano <= held.time_unix_nano < granted.time_unix_nano < request.end_time_unix_nano


async def test_what_comes_to_nothing_is_an_error_if_it_is_ours(traced: Any) -> None:
    async with traced() as (world, collector):
        world.add_model(queue={"holdFor": "1s"})
        await world.wait_listed()
        assert (await world.ask())[0] == 503
        assert (await world.ask(model="made-up"))[0] == 404

    by_code = {attributes(span)["http.response.status_code"]: span for span in collector.requests}
    assert by_code[503].status.code == Status.STATUS_CODE_ERROR
    assert attributes(by_code[503])["error.type"] == "cold_start_timeout"
    assert [event.name for event in by_code[503].events] == ["held"]
    assert by_code[404].status.code == Status.STATUS_CODE_UNSET
    assert by_code[404].name == "POST"
    assert collector.find(Span.SPAN_KIND_CLIENT) == []


async def test_a_collector_that_is_away_holds_up_nothing(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    async with running() as world:
        world.add_model()
        await world.add_engine(answer)
        await world.wait_listed()
        assert (await world.ask())[0] == 200


async def test_without_a_collector_the_clients_context_goes_on_as_it_came(world: World) -> None:
    world.add_model()
    engine = await world.add_engine(answer)
    await world.wait_listed()
    body = {"model": "llama", "messages": []}
    async with world.session.post(f"{world.url}/v1/chat/completions", json=body, headers=CONTEXT) as response:
        await response.read()

    assert {name: engine.received[-1].headers[name] for name in CONTEXT} == CONTEXT


async def test_without_the_extra_the_gateway_serves_all_the_same(
    running: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(server.TRACES_ENDPOINTS[0], "http://127.0.0.1:1")
    monkeypatch.delattr(doors, "tracing", raising=False)
    monkeypatch.setitem(sys.modules, "lull.doors.tracing", None)
    async with running() as world:
        world.add_model()
        await world.add_engine(answer)
        await world.wait_listed()
        assert (await world.ask())[0] == 200

    assert "lull-operator[otel]" in capfd.readouterr().out
