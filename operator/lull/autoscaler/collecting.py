"""Ask every gateway for its demand, all the time: each poll stays open until there is news or a tick has passed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from lull.api import names
from lull.api.addresses import render_origin
from lull.core.signals import find_woken, parse_sample, sum_demand
from lull.doors import clock, metrics
from lull.doors.http import Unreachable
from lull.doors.kube import ENDPOINT_SLICES, reflect
from lull.doors.retrying import backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from lull.api.llmdeployment import Key, Manifest
    from lull.core.signals import Demand, Sample
    from lull.doors.http import Http
    from lull.doors.kube import Kube, WatchEvent

log = structlog.get_logger(__name__)

_PAUSE: Final = 0.02
"""Between two polls of a gateway: under load there is always news."""
_RETRY_MOST: Final = 1.0
_GRACE: Final = 5.0
"""Beyond the time that a gateway was asked to wait, until it counts as unreachable."""


@dataclass(frozen=True, slots=True, order=True)
class GatewayAddress:
    """One gateway process, as far as its address tells."""

    pod: str
    url: str


@dataclass(frozen=True, slots=True)
class Timing:
    tick: float
    stale_after: float


class Collector:
    """The last sample of each gateway that exists."""

    def __init__(self, http: Http, *, timing: Timing, on_news: Callable[[Key], None]) -> None:
        self._http = http
        self._timing = timing
        self._on_news = on_news
        self._slices: dict[str, frozenset[GatewayAddress]] = {}
        self._samples: dict[GatewayAddress, Sample | None] = {}
        self._changed = asyncio.Event()
        metrics.SIGNAL_AGE.set_function(self._measure_age)

    def sum_demand(self, key: Key, now: float) -> Demand | None:
        """Demand of one LLMDeployment over all gateways; None where no gateway was heard of late."""
        return sum_demand(key, self._samples.values(), now=now, stale_after=self._timing.stale_after)

    def list_silent(self, now: float) -> tuple[str, ...]:
        """Pods of gateways that exist and have not answered for too long."""
        return tuple(
            sorted(
                gateway.pod
                for gateway, sample in self._samples.items()
                if sample is None or now - sample.at > self._timing.stale_after
            )
        )

    def _measure_age(self) -> float:
        """Of the last answer of the gateway that was not heard for the longest."""
        now = clock.monotonic()
        return max((now - sample.at for sample in self._samples.values() if sample is not None), default=0.0)

    async def discover(self, kube: Kube, *, namespace: str, service: str, on_alive: Callable[[str], None]) -> None:
        """Follow the EndpointSlices of the gateways' Service, for ever."""

        def on_change(event: WatchEvent) -> None:
            name = event.object["metadata"]["name"]
            if event.type == "DELETED":
                self._slices.pop(name, None)
            else:
                self._slices[name] = _parse_addresses(event.object)
            self._changed.set()

        await reflect(
            kube,
            ENDPOINT_SLICES,
            on_change,
            namespace=namespace,
            labels=f"kubernetes.io/service-name={service}",
            on_alive=lambda: on_alive("watch of endpointslices"),
        )

    async def run(self) -> None:
        """Keep one poll open to each gateway, for ever."""
        polls: dict[GatewayAddress, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                wanted = frozenset[GatewayAddress]().union(*self._slices.values())
                for gone in polls.keys() - wanted:
                    polls.pop(gone).cancel()
                    self._samples.pop(gone, None)
                    log.info("gateway gone", pod=gone.pod)
                for new in sorted(wanted - polls.keys()):
                    self._samples[new] = None
                    polls[new] = group.create_task(self._poll(new))
                    log.info("gateway found", pod=new.pod, url=new.url)
                metrics.GATEWAYS.set(len(wanted))

    async def _poll(self, gateway: GatewayAddress) -> None:
        """Poll one gateway for ever. A sample outlives a failed poll until it is stale."""
        failures = 0
        last: Sample | None = None
        while True:
            try:
                sample = await self._ask(gateway, last)
            except (Unreachable, ValueError) as error:
                failures += 1
                metrics.POLLS.labels("failed").inc()
                if failures == 1:
                    log.warning("gateway not heard", pod=gateway.pod, error=str(error))
                await asyncio.sleep(backoff(failures, first=0.1, most=_RETRY_MOST))
                continue
            if failures:
                log.info("gateway heard again", pod=gateway.pod, failures=failures)
            failures = 0
            metrics.POLLS.labels("ok").inc()
            woken = find_woken(sample, last)
            self._samples[gateway] = last = sample
            for key in woken:
                self._on_news(key)
            await asyncio.sleep(_PAUSE)

    async def _ask(self, gateway: GatewayAddress, last: Sample | None) -> Sample:
        """What is new since the last answer. A gateway that began anew since sees so by `boot`, and answers at once."""
        wait = 0.0 if last is None else self._timing.tick
        query = {"wait": f"{wait:g}", **({} if last is None else {"after": str(last.sequence), "boot": last.boot})}
        content = await self._http.get(gateway.url, query=query, deadline=wait + _GRACE)
        return parse_sample(content, at=clock.monotonic())


def _parse_addresses(manifest: Manifest) -> frozenset[GatewayAddress]:
    """Addresses of a slice, ready or not: one that is starting or ending may hold requests."""
    ports = manifest.get("ports") or []
    port = next((port["port"] for port in ports if port.get("name") == "admin"), names.PORT_ADMIN)
    return frozenset(
        GatewayAddress(
            pod=(endpoint.get("targetRef") or {}).get("name", endpoint["addresses"][0]),
            url=f"{render_origin(endpoint['addresses'][0], port)}/demand",
        )
        for endpoint in manifest.get("endpoints") or []
        if endpoint.get("addresses")
    )
