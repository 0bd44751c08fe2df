"""A gateway that holds what a test tells it to: the demand side of the real one, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class FakeGateway:
    """What `/demand` answers; `hold` and `change` are news that end a waiting poll."""

    boot: str = "boot-1"
    sequence: int = 0
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    polls: int = 0
    status: int = 200
    port: int = 0
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def change(self, model: str, *, held: int = 0, in_flight: int = 0, since_last: float = 0.0) -> None:
        arrived = self.models.get(model, {}).get("arrived", 0) + 1
        async with self._news:
            self.models[model] = {
                "held": held,
                "heldBytes": held * 100,
                "inFlight": in_flight,
                "arrived": arrived,
                "sinceLast": since_last,
            }
            self.sequence += 1
            self._news.notify_all()

    async def restart(self) -> None:
        """Forget everything, as a new process does."""
        async with self._news:
            self.boot, self.sequence, self.models = f"{self.boot}+", 0, {}
            self._news.notify_all()

    async def answer(self, request: web.Request) -> web.Response:
        self.polls += 1
        if self.status != 200:
            return web.Response(status=self.status)
        if "after" in request.query:
            after = int(request.query["after"])
            try:
                async with asyncio.timeout(float(request.query["wait"])), self._news:
                    await self._news.wait_for(lambda: self.sequence != after)
            except TimeoutError:
                pass
        return web.json_response(
            {"gateway": "fake", "boot": self.boot, "sequence": self.sequence, "models": self.models}
        )


@asynccontextmanager
async def serve_gateway(host: str = "127.0.0.1") -> AsyncIterator[FakeGateway]:
    gateway = FakeGateway()
    app = web.Application()
    app.router.add_get("/demand", gateway.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    gateway.port = runner.addresses[0][1]
    try:
        yield gateway
    finally:
        await runner.cleanup()
