"""The admin port: probes, metrics, and the demand that the operator scales on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from lull.gateway.exchange import Gateway

LONGEST_POLL: Final = 30.0


def build_admin(gateway: Gateway) -> web.Application:
    boot = uuid4().hex

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = _find_unready(gateway)
        return web.Response(text="ok\n") if reason is None else web.Response(status=503, text=f"{reason}\n")

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = await gateway.metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def demand(request: web.Request) -> web.Response:
        """Answer at once where there is news since `after`, else when there is, else after `wait` seconds."""
        try:
            after = int(request.query["after"]) if "after" in request.query else None
            wait = min(LONGEST_POLL, max(0.0, float(request.query.get("wait", "0"))))
        except ValueError:
            return web.Response(status=400, text="after is a whole number, wait is seconds\n")
        same_boot = request.query.get("boot", boot) == boot
        # A sequence from the future was given by another process of this name: all is news to its owner.
        if after is not None and same_boot and after == gateway.lines.sequence:
            try:
                async with asyncio.timeout(wait):
                    await gateway.lines.wait_beyond(after)
            except TimeoutError:
                pass
        return web.Response(body=_render_demand(gateway, boot), content_type="application/json")

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.get("/demand", demand),
        ]
    )
    return app


def _find_unready(gateway: Gateway) -> str | None:
    if gateway.stopping:
        return "stopping"
    if not gateway.serving:
        return "starting"
    if not gateway.directory.is_synced:
        return "models and endpoints are not listed yet"
    if not gateway.keyring.is_read:
        return "the keys are not read yet"
    return None


def _render_demand(gateway: Gateway, boot: str) -> bytes:
    return orjson.dumps(
        {
            "gateway": gateway.settings.pod_name,
            "boot": boot,
            "sequence": gateway.lines.sequence,
            "models": {
                str(key): {
                    "held": demand.held,
                    "heldBytes": demand.held_bytes,
                    "inFlight": demand.in_flight,
                    "arrived": demand.arrived,
                    "sinceLast": round(demand.since_last, 3),
                }
                for key, demand in gateway.lines.demand().items()
            },
        }
    )
