"""The gateway's process: what it is made of, how it starts, and how it stops without losing a request."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import aiohttp
import structlog
from aiohttp import web

from lull.doors import clock
from lull.doors.gateway_metrics import GatewayMetrics
from lull.gateway import pipeline
from lull.gateway.admin import build_admin
from lull.gateway.attempts import Attempts
from lull.gateway.directory import Directory
from lull.gateway.exchange import Gateway
from lull.gateway.lines import Lines
from lull.gateway.reply import JSON, SERVER
from lull.gateway.residency import Residency
from lull.wire.openai import INFERENCE_PATHS, PATH_MODELS, ModelCard, Refusal, render_models, unknown_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from lull.api.llmdeployment import Key
    from lull.core.catalogue import Catalogue
    from lull.gateway.sources import Source
    from lull.settings import GatewaySettings

KEEP_ALIVE_CLIENTS: Final = 75.0
"""For idle clients, and for those that are slow to send their headers."""
KEEP_ALIVE_ENGINES: Final = 2.0
"""uvicorn closes idle connections after five seconds; one that is being closed must not get a request."""
LINGER_SECONDS: Final = 2.0
READ_BYTES: Final = 1 << 18


async def run(settings: GatewaySettings, opened: AbstractAsyncContextManager[Source]) -> None:
    """Serve what a source tells of, until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with opened as source:
        await serve(settings, source, stop=stop)


async def serve(settings: GatewaySettings, source: Source, *, stop: asyncio.Event) -> None:
    """Serve until told to stop: then fail readiness, serve on for a while, and let those in flight finish."""
    async with _assemble(settings) as gateway, asyncio.TaskGroup() as group:
        watches = [
            group.create_task(source.run(gateway)),
            group.create_task(gateway.residency.run()),
        ]
        admin = web.AppRunner(build_admin(gateway), access_log=None, shutdown_timeout=1.0)
        door = web.ServerRunner(
            web.Server(
                lambda request: _answer(gateway, request),
                handler_cancellation=True,
                keepalive_timeout=KEEP_ALIVE_CLIENTS,
                lingering_time=LINGER_SECONDS,
                auto_decompress=False,
                read_bufsize=READ_BYTES,
                access_log=None,
            ),
            shutdown_timeout=settings.drain_seconds,
        )
        async with _running(admin, settings.admin_port), _running(door, settings.port):
            gateway.serving = True
            gateway.log.info("serving", port=settings.port, admin_port=settings.admin_port)
            await stop.wait()
            gateway.stopping = True
            gateway.log.info("stopping", lame_duck_seconds=settings.lame_duck_seconds)
            await asyncio.sleep(settings.lame_duck_seconds)
            gateway.lines.close(pipeline.stopping)
            # Leaving the block closes the door: no new connections, then drain_seconds for those in flight.
        for watch in watches:
            watch.cancel()
    gateway.log.info("stopped")


@asynccontextmanager
async def _assemble(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    """Make the collaborators and introduce them to each other."""
    attempts = Attempts()

    def change(key: Key) -> None:
        residency.review(key)
        for adapter in lines.list_adapters(key):
            if why := pipeline.find_failure(directory, key, adapter):
                lines.turn_away(key, partial(pipeline.adapter_failed, adapter, why), adapter=adapter)
        lines.release(key)

    def drop_adapter(key: Key, adapter: str) -> None:
        lines.turn_away(key, lambda: unknown_model(adapter, directory.catalogue.names), adapter=adapter)
        metrics.forget_adapter(key, adapter)

    def drop(key: Key) -> None:
        lines.turn_away(key, lambda: unknown_model(key.name, directory.catalogue.names))
        lines.forget(key)
        metrics.forget(key)

    directory = Directory(on_change=change, on_lost=attempts.lose, on_gone=drop, on_adapter_gone=drop_adapter)
    lines = Lines(lambda key, adapter: directory.free(key, now=clock.monotonic(), adapter=adapter))
    metrics = GatewayMetrics(lines.demand)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_ENGINES, use_dns_cache=False)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_seconds),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        read_bufsize=READ_BYTES,
    ) as session:
        residency = Residency(session, directory, list_waited=lines.list_adapters)
        yield Gateway(
            settings=settings,
            directory=directory,
            lines=lines,
            session=session,
            metrics=metrics,
            log=structlog.get_logger("lull.gateway"),
            attempts=attempts,
            residency=residency,
        )


@asynccontextmanager
async def _running(runner: web.AppRunner | web.ServerRunner, port: int) -> AsyncIterator[None]:
    await runner.setup()
    try:
        await web.TCPSite(runner, None, port, backlog=4096, reuse_address=True).start()
        yield
    finally:
        await runner.cleanup()


async def _answer(gateway: Gateway, request: web.BaseRequest) -> web.StreamResponse:
    """The allow-list: exactly these paths exist, compared as they were sent."""
    path = request.raw_path.partition("?")[0]
    if path in INFERENCE_PATHS and request.method == "POST":
        return await pipeline.serve(gateway, request, path)
    status, headers = 200, dict[str, str]()
    try:
        body = _answer_here(gateway, request.method, path)
    except Refusal as refusal:
        status, headers, body = refusal.status, refusal.headers, refusal.body
    gateway.metrics.requests.labels("", "", str(status)).inc()
    response = web.Response(status=status, headers={**SERVER, **JSON, **headers}, body=body)
    if gateway.stopping:
        response.force_close()
    return response


def _answer_here(gateway: Gateway, method: str, path: str) -> bytes:
    """What needs no engine: the list of models, and every no."""
    if path not in INFERENCE_PATHS | {PATH_MODELS}:
        raise Refusal(404, "There is nothing at this path.", code="unknown_path")
    if path in INFERENCE_PATHS or method != "GET":
        raise _wrong_method(path, "POST" if path in INFERENCE_PATHS else "GET")
    if not gateway.directory.is_synced:
        raise pipeline.not_synced()
    catalogue = gateway.directory.catalogue
    return render_models(_describe(catalogue, name) for name in catalogue.names)


def _describe(catalogue: Catalogue, name: str) -> ModelCard:
    """As vLLM does: where it comes from, and of an adapter the model that it goes on top of."""
    deployment = catalogue.deployments[catalogue.names[name]]
    adapter = catalogue.adapters.get(name)
    return ModelCard(
        name,
        created=_created(deployment.created_at),
        root=(deployment.spec.model.source if adapter is None else adapter.source) or None,
        parent=None if adapter is None else deployment.served_names[0],
    )


def _created(created_at: str) -> int:
    return int(datetime.fromisoformat(created_at).timestamp()) if created_at else 0


def _wrong_method(path: str, allowed: str) -> Refusal:
    return Refusal(405, f"{path} takes {allowed} only.", code="method_not_allowed", headers={"Allow": allowed})
