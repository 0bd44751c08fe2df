"""The admin port: probes, metrics, and the demand that the operator scales on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

import orjson
from aiohttp import web

from lull.doors import clock
from lull.doors.gateway_counts import ServiceCounts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lull.api.llmdeployment import Key
    from lull.gateway.exchange import Gateway

    Handler = Callable[[web.Request], Awaitable[web.Response]]

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
        poll = parse_poll(request)
        # A sequence from the future was given by another process of this name: all is news to its owner.
        if poll.after is not None and poll.boot in {None, boot} and poll.after == gateway.lines.sequence:
            try:
                async with asyncio.timeout(poll.wait):
                    await gateway.lines.wait_beyond(poll.after)
            except TimeoutError:
                pass
        return web.Response(body=_render_demand(gateway, boot), content_type="application/json")

    return route(healthz=healthz, readyz=readyz, metrics=metrics, demand=demand)


class Poll(NamedTuple):
    """What whoever asks for the demand knows already, and how long they wait for news."""

    after: int | None
    wait: float
    boot: str | None


def parse_poll(request: web.Request) -> Poll:
    """The query of `/demand`; HTTPBadRequest where it makes no sense."""
    query = request.query
    try:
        after = int(query["after"]) if "after" in query else None
        wait = min(LONGEST_POLL, max(0.0, float(query.get("wait", "0"))))
    except ValueError:
        raise web.HTTPBadRequest(text="after is a whole number, wait is seconds\n") from None
    return Poll(after, wait, query.get("boot"))


def route(**handlers: Handler) -> web.Application:
    """An admin port on which each handler answers at its name."""
    app = web.Application()
    app.add_routes([web.get(f"/{name}", handler) for name, handler in handlers.items()])
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
    now = clock.monotonic()
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
                    "service": _describe_service(gateway, key, now),
                }
                for key, demand in gateway.lines.demand().items()
            },
        },
        option=orjson.OPT_NON_STR_KEYS,
    )


def _describe_service(gateway: Gateway, key: Key, now: float) -> dict[str, Any]:
    """How the requests for a model fare. Latencies are counts by bucket (`core.latencies`), as these add up."""
    counts = gateway.counts.deployments.get(key)
    service = ServiceCounts() if counts is None else counts.service
    reading = gateway.directory.measure_reading(key, now=now)
    return {
        "finished": service.finished,
        "met": service.met,
        "missed": service.missed,
        "reading": None if reading is None else round(reading, 4),
        "firstToken": service.first_token.count(now=now),
        "perToken": service.per_token.count(now=now),
        "whole": service.whole.count(now=now),
    }
