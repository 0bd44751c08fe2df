"""Leader election by a coordination.k8s.io Lease: at most one operator writes at a time.

Another process's clock is never believed: a Lease counts as abandoned when *we* have seen it unchanged for its
whole duration. A leader that could not renew in time stops writing before anybody else can begin.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from lull.doors import clock
from lull.doors.kube import LEASES, Refused, Transient

if TYPE_CHECKING:
    from lull.api.llmdeployment import Manifest
    from lull.doors.kube import Kube

log = structlog.get_logger(__name__)

# Shares of the Lease's duration, as in client-go's 15 s, 10 s and 2 s.
_RENEW_DEADLINE: Final = 2 / 3
_RETRY: Final = 2 / 15
_RELEASE_SECONDS: Final = 2.0

# What was last seen of a Lease: its holder and its resource version.
_NEVER: Final = ("", "")
_GONE: Final = ("", "gone")


class LeaseLost(Exception):  # noqa: N818  reads as what happened
    """Another process may hold the Lease now: this one must stop at once."""


@dataclass(frozen=True, slots=True)
class LeaseName:
    namespace: str
    name: str
    holder: str
    seconds: float


class Lease:
    """One process's view of the Lease."""

    def __init__(self, kube: Kube, name: LeaseName) -> None:
        self._kube = kube
        self._name = name
        self._seen = _NEVER
        self._seen_at = 0.0
        self._renewed_at: float | None = None
        self._held: Manifest | None = None

    @property
    def is_held(self) -> bool:
        return self._held is not None

    async def acquire(self) -> None:
        """Wait until the Lease is ours, through any failure of the API server."""
        retry = self._name.seconds * _RETRY
        while True:
            try:
                if await self._try(deadline=retry * 2):
                    log.info("lease acquired", holder=self._name.holder)
                    return
            except Refused as error:
                log.warning("lease not acquired", error=str(error))
            except (Transient, TimeoutError) as error:
                log.debug("lease not acquired", error=repr(error))
            await asyncio.sleep(retry * random.uniform(0.8, 1.2))  # noqa: S311  spreads candidates only

    async def keep(self) -> None:
        """Renew for ever; LeaseLost where that did not succeed in time."""
        retry = self._name.seconds * _RETRY
        while True:
            await asyncio.sleep(min(retry, self._left()))
            left = self._left()
            if left <= 0:
                self._held = None
                raise LeaseLost(f"not renewed for {self._name.seconds * _RENEW_DEADLINE:.0f} s")
            try:
                # No answer may be waited for longer than the Lease is surely ours.
                async with asyncio.timeout(left):
                    ours = await self._try(deadline=left)
            except (Transient, Refused, TimeoutError) as error:
                log.warning("lease not renewed", error=repr(error), left=round(left, 1))
                continue
            if not ours:
                self._held = None
                raise LeaseLost(f"{self._seen[0]} holds it")

    async def release(self) -> None:
        """Give the Lease up, so that the next process need not wait for it to run out."""
        if self._held is None:
            return
        held, self._held = self._held, None
        spec = {**held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._kube.replace({**held, "spec": spec}, deadline=_RELEASE_SECONDS)
        except (Transient, Refused) as error:
            log.warning("lease not released", error=str(error))
        else:
            log.info("lease released", holder=self._name.holder)

    def _left(self) -> float:
        """Seconds for which the Lease is surely ours, with a margin for stopping."""
        return max(0.0, (self._renewed_at or 0.0) + self._name.seconds * _RENEW_DEADLINE - clock.monotonic())

    async def _try(self, *, deadline: float) -> bool:
        """Take or renew the Lease where that is allowed; whether it is ours now."""
        began = clock.monotonic()
        held = self._held
        if held is None:
            async with asyncio.timeout(deadline):
                held = await self._kube.get(LEASES, self._name.namespace, self._name.name)
        if held is None:
            if not self._may_create(began):
                return False
            async with asyncio.timeout(deadline):
                self._held = await self._kube.create(self._render(None))
        elif self._held is None and not self._may_take(held, began):
            return False
        else:
            try:
                self._held = await self._kube.replace(self._render(held), deadline=deadline)
            except (Transient, Refused):
                # Whether it was written is unknown, or somebody else wrote or deleted: read it before the next try.
                held = await self._kube.get(LEASES, self._name.namespace, self._name.name)
                if self._held is not None:
                    holder = ((held or {}).get("spec") or {}).get("holderIdentity") or "nobody"
                    if held is None or holder != self._name.holder:
                        self._seen = (holder, "")
                        return False
                    self._held = held
                raise
        # Counted from before the request: the server may have written it at any time since.
        self._renewed_at = began
        return True

    def _may_take(self, held: Manifest, now: float) -> bool:
        spec = held.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        version = held["metadata"]["resourceVersion"]
        if (holder, version) != self._seen:
            self._seen = (holder, version)
            self._seen_at = now
        if holder in {"", self._name.holder}:
            return True
        return now - self._seen_at > float(spec.get("leaseDurationSeconds") or self._name.seconds)

    def _may_create(self, now: float) -> bool:
        """Whether a Lease that is not there may be made anew.

        One that was there is missed for its whole duration first: its last holder may not know yet, and where Lull
        is being uninstalled, this process is told to stop meanwhile and leaves nothing behind.
        """
        if self._seen == _NEVER:
            return True
        if self._seen != _GONE:
            self._seen, self._seen_at = _GONE, now
        return now - self._seen_at > self._name.seconds

    def _render(self, held: Manifest | None) -> Manifest:
        written = clock.render_time(clock.wall())
        before = (held or {}).get("spec") or {}
        ours = before.get("holderIdentity") == self._name.holder
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": (held or {}).get("metadata") or {"namespace": self._name.namespace, "name": self._name.name},
            "spec": {
                "holderIdentity": self._name.holder,
                "leaseDurationSeconds": round(self._name.seconds),
                "acquireTime": before.get("acquireTime", written) if ours else written,
                "renewTime": written,
                "leaseTransitions": before.get("leaseTransitions", 0) + (0 if ours or held is None else 1),
            },
        }
