"""`lull operator`: the whole operator process, put together in one place."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from lull import __version__
from lull.autoscaler.collecting import Collector, Timing
from lull.autoscaler.forecasting import Forecaster
from lull.autoscaler.loop import Autoscaler
from lull.autoscaler.scraping import Scraper
from lull.autoscaler.sleeping import WORKERS, Sleepers
from lull.controller import handlers
from lull.controller.claims import Claims
from lull.controller.queue import KeyedQueue
from lull.controller.reconcile import Reconciler, Surroundings
from lull.core.manifests.settings import build_settings
from lull.doors import admin, http, kube, logs, loop, metrics
from lull.doors.admin import Health
from lull.doors.events import Recorder
from lull.doors.lease import Lease, LeaseName
from lull.doors.prices import Prices
from lull.doors.prometheus import Prometheus
from lull.doors.store import Store
from lull.residence.loop import Residence
from lull.settings import OperatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lull.doors.http import Http
    from lull.doors.kube import Kube

log = structlog.get_logger(__name__)

_STOP_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 0.05
"""How long what happens to one LLMDeployment is gathered before it is reconciled."""


class _Stopped(Exception):  # noqa: N818  ends the task group, and is nobody's error
    """The process was told to end."""


@dataclass(frozen=True, slots=True)
class App:
    """Everything that works while this process leads."""

    kube: Kube
    store: Store
    claims: Claims
    recorder: Recorder
    collector: Collector
    scraper: Scraper
    forecaster: Forecaster
    autoscaler: Autoscaler
    decisions: KeyedQueue
    reconciler: Reconciler
    reconciles: KeyedQueue
    residence: Residence
    placements: KeyedQueue
    sleepers: Sleepers
    rests: KeyedQueue


def assemble(settings: OperatorSettings, connection: Kube, client: Http) -> App:
    store = Store()
    recorder = Recorder(connection, settings.pod_name)
    timing = Timing(tick=settings.tick_seconds, stale_after=settings.stale_seconds)
    reconciles, decisions = KeyedQueue("controller", settle_seconds=_SETTLE_SECONDS), KeyedQueue("autoscaler")
    collector = Collector(client, timing=timing, on_news=decisions.add)
    scraper = Scraper(
        client,
        store=store,
        collector=collector,
        pause=settings.engine_tick_seconds,
        stale_after=settings.stale_seconds,
    )
    rests = KeyedQueue("sleepers")
    prometheus = (
        Prometheus(settings.prometheus_url, credentials=settings.prometheus_credentials)
        if settings.prometheus_url
        else None
    )
    forecaster = Forecaster(prometheus, store=store)
    autoscaler = Autoscaler(
        connection,
        store=store,
        collector=collector,
        recorder=recorder,
        timing=timing,
        on_decision=reconciles.add,
        on_rest=rests.add,
        prices=Prices(settings.prices_file),
        scraper=scraper,
        forecaster=forecaster,
    )
    sleepers = Sleepers(connection, client, store=store, recorder=recorder, find_rest=autoscaler.find_rest)
    claims = Claims(store, reconciles.add)
    residence = Residence(client, store=store, find_conflicts=claims.find_adapter_conflicts, on_change=reconciles.add)
    placements = KeyedQueue("adapters")
    reconciler = Reconciler(
        connection,
        store=store,
        settings=build_settings(settings),
        surroundings=Surroundings(
            find_conflict=claims.find_conflict,
            view_scaling=autoscaler.view,
            view_adapters=residence.view,
            nodes_autoscaled=settings.nodes_autoscaled,
            gateway_url=settings.gateway_url,
        ),
        recorder=recorder,
        resync_seconds=settings.resync_seconds,
    )
    store.listen(claims.take)
    store.listen(decisions.add)
    store.listen(reconciles.add)
    store.listen(lambda key: placements.add(key) if residence.concerns(key) else None)
    store.listen(lambda key: rests.add(key) if sleepers.concerns(key) else None)
    return App(
        connection,
        store,
        claims,
        recorder,
        collector,
        scraper,
        forecaster,
        autoscaler,
        decisions,
        reconciler,
        reconciles,
        residence,
        placements,
        sleepers,
        rests,
    )


async def run(settings: OperatorSettings) -> None:
    """The process, until it is told to stop."""
    stop = asyncio.Event()
    _catch_signals(stop)
    async with kube.connect() as connection, http.connect() as client:
        await serve(settings, connection, client, stop=stop)


async def serve(settings: OperatorSettings, connection: Kube, client: Http, *, stop: asyncio.Event) -> None:
    """Wait for the Lease, then lead until told to stop; an error out of here means that the process must end."""
    health = Health()
    lease = Lease(
        connection,
        LeaseName(settings.namespace, settings.lease_name, holder=settings.pod_name, seconds=settings.lease_seconds),
    )
    app = assemble(settings, connection, client)
    async with admin.serve(health, settings.admin_port):
        log.info("started", version=__version__, pod=settings.pod_name, namespace=settings.scope or "all")
        # One that waits for the Lease is ready too: it can take over at any moment.
        health.is_ready = True
        with contextlib.suppress(_Stopped):
            async with _released(lease), _one_error(), asyncio.TaskGroup() as group:
                group.create_task(_wait_stop(stop))
                await lease.acquire()
                metrics.LEADING.set(1)
                await _lead(app, settings, lease, health, stop, group)
    log.info("stopped")


async def _lead(
    app: App, settings: OperatorSettings, lease: Lease, health: Health, stop: asyncio.Event, group: asyncio.TaskGroup
) -> None:
    group.create_task(lease.keep())
    group.create_task(app.store.run(app.kube, namespace=settings.scope, on_alive=health.beat))
    group.create_task(app.recorder.run())
    group.create_task(app.collector.run())
    group.create_task(
        app.collector.discover(
            app.kube, namespace=settings.namespace, service=settings.gateway_service, on_alive=health.beat
        )
    )
    group.create_task(app.forecaster.run())
    # Conflicts and replica counts are known only when everything was seen once; and Kopf, which looks for kinds only at
    # its start, would wait for ever for one that comes later.
    await app.store.wait_synced()
    app.claims.judge()
    group.create_task(app.scraper.run())
    workers = settings.concurrent_reconciles
    group.create_task(app.decisions.run(app.autoscaler.scale, workers=workers, on_alive=health.beat))
    group.create_task(app.placements.run(app.residence.settle, workers=workers, on_alive=health.beat))
    # Each of its requests has a deadline, some of them long ones: its workers give no sign of life.
    group.create_task(app.rests.run(app.sleepers.settle, workers=WORKERS, on_alive=lambda _: None))
    group.create_task(app.reconciles.run(app.reconciler.reconcile, workers=workers, on_alive=health.beat))
    started = asyncio.Event()
    group.create_task(handlers.run(app.reconciles.add, namespace=settings.scope, started=started))
    await started.wait()
    # Kopf has just put its own signal handlers in the place of ours; they would stop it alone, and slowly.
    await asyncio.sleep(0)
    _catch_signals(stop)


async def _wait_stop(stop: asyncio.Event) -> None:
    await stop.wait()
    log.info("stopping")
    raise _Stopped


def _catch_signals(stop: asyncio.Event) -> None:
    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, stop.set)


@contextlib.asynccontextmanager
async def _released(lease: Lease) -> AsyncIterator[None]:
    """Give the Lease up at the end, when nothing writes any more."""
    try:
        yield
    finally:
        metrics.LEADING.set(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await lease.release()


@contextlib.asynccontextmanager
async def _one_error() -> AsyncIterator[None]:
    """Let the first error of a task group stand for all: the others are what it brought down."""
    try:
        yield
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from errors


def main() -> None:
    """Run as the environment says; exit 0 when told to stop, 1 when the process cannot go on."""
    settings = OperatorSettings()
    logs.configure(settings.log_level)
    try:
        loop.run(run(settings))
    except Exception as error:
        log.critical("ended", error=f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error
