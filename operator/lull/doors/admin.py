"""The admin port of the operator: `/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web

from lull.doors import clock, metrics
from lull.doors.serving import listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SILENCE: Final = 180.0
"""Seconds without a pulse after which a part counts as stuck."""


class Health:
    """Signs of life of a process's parts.

    A part that only waits for the API server still beats; one whose task hangs does not.
    """

    def __init__(self) -> None:
        self.is_ready = False
        self._beats: dict[str, float] = {}

    def beat(self, part: str) -> None:
        self._beats[part] = clock.monotonic()

    def find_stuck(self) -> tuple[str, ...]:
        now = clock.monotonic()
        return tuple(sorted(part for part, at in self._beats.items() if now - at > SILENCE))


@asynccontextmanager
async def serve(health: Health, port: int) -> AsyncIterator[None]:
    """Answer probes and Prometheus while the block runs."""

    async def answer_healthz(_: web.Request) -> web.Response:
        stuck = health.find_stuck()
        return web.Response(status=503 if stuck else 200, text="stuck: " + ", ".join(stuck) if stuck else "ok")

    async def answer_readyz(_: web.Request) -> web.Response:
        return web.Response(status=200 if health.is_ready else 503, text="ok" if health.is_ready else "starting")

    async def answer_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/healthz", answer_healthz)
    app.router.add_get("/readyz", answer_readyz)
    app.router.add_get("/metrics", answer_metrics)
    async with listen(web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0), port):
        yield
