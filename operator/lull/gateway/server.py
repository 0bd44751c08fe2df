"""The gateway's process: what it is made of, how it starts, and how it stops without losing a request."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp
import structlog
from aiohttp import web

from lull.api import names
from lull.core.keys import Keyring
from lull.core.limits import Ledger
from lull.core.routing import RetryBudget
from lull.doors import clock, kube, logs
from lull.doors.access_log import AccessLog, Logged, Outlet
from lull.doors.gateway_metrics import GatewayMetrics
from lull.doors.serving import listen
from lull.doors.valkey import Tally
from lull.gateway import access, keystore, pipeline
from lull.gateway.admin import build_admin
from lull.gateway.directory import Directory
from lull.gateway.door import BACKLOG, Door
from lull.gateway.engines import Engines
from lull.gateway.exchange import Gateway
from lull.gateway.lines import Lines
from lull.gateway.relay import Relays
from lull.gateway.residency import Residency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from contextlib import AbstractContextManager

    from lull.api.llmdeployment import Key
    from lull.doors.tracing import Tracer
    from lull.gateway.exchange import Exchange
    from lull.settings import GatewaySettings
    from lull.wire.openai import Refusal

KEEP_ALIVE_ENGINES: Final = 2.0
STANDARD_OUTPUT: Final = 1
TRACES_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Source(Protocol):
    """Where models and endpoints come from."""

    async def run(self, gateway: Gateway) -> None:
        """Tell the gateway's directory of them, until cancelled."""


class Cluster:
    """Models are LLMDeployments, endpoints are pods."""

    def __init__(self, connection: kube.Kube, scope: str | None) -> None:
        self._connection = connection
        self._scope = scope

    async def run(self, gateway: Gateway) -> None:
        directory = gateway.directory
        async with asyncio.TaskGroup() as group:
            group.create_task(
                kube.reflect(
                    self._connection,
                    kube.LLMDEPLOYMENTS,
                    directory.record_deployment,
                    namespace=self._scope,
                    on_synced=lambda: directory.record_synced("deployments"),
                    on_lost=directory.record_lost,
                )
            )
            group.create_task(
                kube.reflect(
                    self._connection,
                    kube.PODS,
                    directory.record_pod,
                    namespace=self._scope,
                    labels=f"{names.LABEL_COMPONENT}={names.COMPONENT_ENGINE}",
                    on_synced=lambda: directory.record_synced("pods"),
                )
            )
            group.create_task(self._watch_keys(gateway))

    async def _watch_keys(self, gateway: Gateway) -> None:
        settings = gateway.settings
        replace = partial(access.replace_keys, gateway)
        if settings.keys_secret:
            await keystore.watch(self._connection, replace, namespace=settings.namespace, name=settings.keys_secret)
        else:
            replace(Keyring())


async def run(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with kube.connect() as connection:
        await serve(settings, Cluster(connection, settings.scope), stop=stop)


async def serve(settings: GatewaySettings, source: Source, *, stop: asyncio.Event) -> None:
    """Serve until told to stop: then fail readiness, serve on for a while, and let those in flight finish."""
    async with asyncio.TaskGroup() as group, _assemble(settings, group) as gateway:
        door = Door(gateway, serve=pipeline.serve, leave=pipeline.leave, sweep=pipeline.sweep)
        services = [
            group.create_task(source.run(gateway)),
            group.create_task(gateway.residency.run()),
            group.create_task(door.run()),
            *([group.create_task(gateway.tally.run())] if gateway.tally is not None else []),
        ]
        admin = web.AppRunner(build_admin(gateway), access_log=None, shutdown_timeout=1.0)
        async with listen(admin, settings.admin_port):
            await door.open([_bind(settings.port)])
            gateway.serving = True
            gateway.log.info("serving", port=settings.port, admin_port=settings.admin_port)
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


@asynccontextmanager
async def _assemble(settings: GatewaySettings, group: asyncio.TaskGroup) -> AsyncIterator[Gateway]:
    """Make the collaborators and introduce them to each other."""

    def change(key: Key) -> None:
        residency.review(key)
        for adapter in lines.list_adapters(key):
            if why := pipeline.find_failure(directory, key, adapter):
                lines.turn_away(key, partial(pipeline.adapter_failed, adapter, why), adapter=adapter)
        lines.release(key)

    def drop_adapter(key: Key, adapter: str) -> None:
        lines.turn_away(key, partial(pipeline.gone, adapter), adapter=adapter)
        metrics.forget_adapter(key, adapter)

    def drop(key: Key) -> None:
        lines.turn_away(key, partial(pipeline.gone, key.name))
        lines.forget(key)
        metrics.forget(key)

    def go(exchange: Exchange) -> None:
        pipeline.go(gateway, exchange)

    def refuse(exchange: Exchange, refusal: Refusal) -> None:
        pipeline.refuse(gateway, exchange, refusal)

    def spawn(coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        return group.create_task(coroutine)

    outlet = Outlet(STANDARD_OUTPUT)
    relays = Relays()
    directory = Directory(on_change=change, on_lost=relays.lose, on_gone=drop, on_adapter_gone=drop_adapter)
    lines = Lines(
        lambda key, adapter: directory.free(key, now=clock.monotonic(), adapter=adapter),
        on_go=go,
        on_refused=refuse,
        displaced=pipeline.queue_full,
    )
    metrics = GatewayMetrics(lines.demand, lost_lines=lambda: outlet.lost)
    engines = Engines(connect_seconds=settings.connect_seconds)
    connector = aiohttp.TCPConnector(keepalive_timeout=KEEP_ALIVE_ENGINES)
    async with AsyncExitStack() as stack:
        stack.enter_context(outlet.running())
        stack.enter_context(logs.through(outlet))
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
            keyring=Keyring(is_read=False),
            ledger=Ledger(),
            tally=_share_limits(settings),
            spawn=spawn,
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


def _bind(port: int) -> socket.socket:
    """Listen on all addresses, IPv4 and IPv6 alike where the machine has both."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True, reuse_port=True
        )
    return socket.create_server(("", port), backlog=BACKLOG, reuse_port=True)
