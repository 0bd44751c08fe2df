"""The gateway's process: what it is made of, how it starts, and how it stops without losing a request."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import aiohttp
import structlog
from aiohttp import web

from lull.core.answers import Answers
from lull.core.keys import Keyring
from lull.core.limits import Ledger
from lull.core.routing import RetryBudget
from lull.doors import clock, logs
from lull.doors.access_log import AccessLog, Logged, Outlet
from lull.doors.gateway_metrics import GatewayMetrics
from lull.doors.serving import listen
from lull.doors.valkey import Tally
from lull.gateway import pipeline
from lull.gateway.admin import build_admin
from lull.gateway.directory import Directory
from lull.gateway.door import BACKLOG, Door
from lull.gateway.door import __file__ as door_path
from lull.gateway.engines import Engines
from lull.gateway.exchange import Gateway
from lull.gateway.lines import Lines
from lull.gateway.recall import review_answers
from lull.gateway.relay import Relays
from lull.gateway.residency import Residency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from pathlib import Path

    from lull.api.llmdeployment import Key
    from lull.doors.tracing import Tracer
    from lull.gateway.exchange import Exchange
    from lull.gateway.sources import Source
    from lull.settings import GatewaySettings
    from lull.wire.openai import Refusal

KEEP_ALIVE_ENGINES: Final = 2.0
STANDARD_INPUT: Final = 0
STANDARD_OUTPUT: Final = 1
TRACES_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a gateway is reached, if not at the ports of its settings."""

    clients: socket.socket
    admin: Path


async def run(
    settings: GatewaySettings, opened: AbstractAsyncContextManager[Source], *, listening: Listening | None = None
) -> None:
    """Serve what a source tells of, until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    catch_signals(stop)
    loop = asyncio.get_running_loop()
    if listening is not None:
        loop.add_reader(STANDARD_INPUT, _stop_at_end, stop)
    async with opened as source:
        # What is loaded by this time stays, and looking for garbage in all of it takes 40 ms in which nobody is served.
        gc.collect()
        gc.freeze()
        await serve(settings, source, stop=stop, listening=listening)


async def serve(
    settings: GatewaySettings, source: Source, *, stop: asyncio.Event, listening: Listening | None = None
) -> None:
    """Serve until told to stop: then fail readiness, serve on for a while, and let those in flight finish."""
    async with asyncio.TaskGroup() as group, _assemble(settings) as gateway:
        door = Door(gateway, serve=pipeline.serve, refuse=pipeline.refuse, leave=pipeline.leave, sweep=pipeline.sweep)
        services = [
            group.create_task(source.run(gateway)),
            group.create_task(gateway.residency.run()),
            group.create_task(door.run()),
            *([group.create_task(gateway.tally.run())] if gateway.tally is not None else []),
        ]
        admin = web.AppRunner(build_admin(gateway), access_log=None, shutdown_timeout=1.0)
        async with listen(admin, listening.admin if listening else settings.admin_port):
            await door.open([listening.clients if listening else bind(settings.port)])
            gateway.serving = True
            gateway.log.info(
                "serving", port=settings.port, admin_port=settings.admin_port, compiled=not door_path.endswith(".py")
            )
            await stop.wait()
            gateway.stopping = True
            gateway.log.info("stopping", lame_duck_seconds=settings.lame_duck_seconds)
            await asyncio.sleep(settings.lame_duck_seconds)
            gateway.lines.close(pipeline.stopping)
            door.close()
            await door.wait_closed(settings.drain_seconds)
        for service in services:
            service.cancel()
    gateway.log.info("stopped")


def catch_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT tell to stop; a second SIGINT ends the process, as whoever presses Ctrl-C twice wants."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupt)


def bind(port: int, *, shared: bool = False) -> socket.socket:
    """Listen on all addresses, IPv4 and IPv6 alike where the machine has both, with others if the port is shared."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True, reuse_port=shared
        )
    return socket.create_server(("", port), backlog=BACKLOG, reuse_port=shared)


def _stop_at_end(stop: asyncio.Event) -> None:
    """Whoever started this process holds the other end, and writes nothing: it is readable once that one is gone."""
    asyncio.get_running_loop().remove_reader(STANDARD_INPUT)
    stop.set()


@asynccontextmanager
async def _assemble(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    """Make the collaborators and introduce them to each other."""

    def change(key: Key) -> None:
        residency.review(key)
        for adapter in lines.list_adapters(key):
            if why := pipeline.find_failure(directory, key, adapter):
                lines.turn_away(key, partial(pipeline.adapter_failed, adapter, why), adapter=adapter)
        if answers.is_keeping(key):
            review_answers(gateway, key)
        lines.release(key)

    def drop_adapter(key: Key, adapter: str) -> None:
        lines.turn_away(key, partial(pipeline.gone, adapter), adapter=adapter)
        counts.forget_adapter(key, adapter)

    def drop(key: Key) -> None:
        lines.turn_away(key, partial(pipeline.gone, key.name))
        lines.forget(key)
        counts.forget(key)
        answers.purge(key)

    def go(exchange: Exchange) -> None:
        pipeline.go(gateway, exchange)

    def refuse(exchange: Exchange, refusal: Refusal) -> None:
        pipeline.refuse(gateway, exchange, refusal)

    outlet = Outlet(STANDARD_OUTPUT)
    relays = Relays()
    answers = Answers()
    directory = Directory(on_change=change, on_lost=relays.lose, on_gone=drop, on_adapter_gone=drop_adapter)
    lines = Lines(
        lambda key, adapter: directory.free(key, now=clock.monotonic(), adapter=adapter),
        on_go=go,
        on_refused=refuse,
        displaced=pipeline.queue_full,
    )
    tally = _share_limits(settings)
    metrics = GatewayMetrics(
        lines.demand,
        lost_lines=lambda: outlet.lost,
        shares_limits=lambda: tally is not None and tally.is_available,
    )
    counts = metrics.counts
    engines = Engines(connect_seconds=settings.connect_seconds)
    connector = aiohttp.TCPConnector(keepalive_timeout=KEEP_ALIVE_ENGINES)
    async with AsyncExitStack() as stack:
        stack.enter_context(logs.through(outlet))
        stack.enter_context(outlet.running())
        tracer = stack.enter_context(_tracing(settings))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        )
        residency = Residency(session, directory, list_waited=lines.list_adapters)
        gateway = Gateway(
            settings=settings,
            directory=directory,
            lines=lines,
            engines=engines,
            relays=relays,
            metrics=metrics,
            access_log=AccessLog(outlet, Logged(settings.access_log)),
            tracer=tracer,
            log=structlog.get_logger("lull.gateway"),
            residency=residency,
            budget=RetryBudget(),
            answers=answers,
            keyring=Keyring(is_read=False),
            ledger=Ledger(),
            tally=tally,
        )
        gateway.outcome = pipeline.Outcomes(gateway)
        try:
            yield gateway
        finally:
            await engines.close()


def _tracing(settings: GatewaySettings) -> AbstractContextManager[Tracer | None]:
    """Traces go where OpenTelemetry's own variables say, and nowhere without them."""
    if not any(os.environ.get(name) for name in TRACES_ENDPOINTS):
        return nullcontext()
    try:
        from lull.doors import tracing  # noqa: PLC0415  an extra, and a tenth of a second
    except ImportError as error:
        structlog.get_logger("lull.gateway").warning(
            "no traces", error=f"{error}; install lull-operator[otel], or unset {TRACES_ENDPOINTS[0]}"
        )
        return nullcontext()
    return tracing.exporting(settings.pod_name)


def _share_limits(settings: GatewaySettings) -> Tally | None:
    """The count that all gateways of this namespace share, where there is a place for it."""
    if not settings.valkey_url:
        return None
    return Tally(settings.valkey_url, password=settings.valkey_password, prefix=settings.namespace)
