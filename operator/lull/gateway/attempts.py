"""Requests that engines have right now, so that the loss of a pod reaches them at once.

A machine that vanishes closes no connection. Without this its requests would wait for the longest time-out.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(eq=False, slots=True)
class Attempt:
    timeout: asyncio.Timeout
    is_lost: bool = False

    def extend(self, seconds: float) -> None:
        """The engine has shown life: it gets so long for the next sign of it."""
        if not self.timeout.expired() and not self.is_lost:
            self.timeout.reschedule(asyncio.get_running_loop().time() + seconds)

    def lose(self) -> None:
        self.is_lost = True
        if not self.timeout.expired():
            self.timeout.reschedule(asyncio.get_running_loop().time())


class Attempts:
    """Attempts by the uid of the pod that has them."""

    def __init__(self) -> None:
        self._open: dict[str, set[Attempt]] = {}

    @asynccontextmanager
    async def open(self, uid: str, seconds: float) -> AsyncIterator[Attempt]:
        """Bound what happens inside; TimeoutError when its time is over or the pod is lost."""
        async with asyncio.timeout(seconds) as timeout:
            attempt = Attempt(timeout)
            attempts = self._open.setdefault(uid, set())
            attempts.add(attempt)
            try:
                yield attempt
            finally:
                attempts.discard(attempt)
                if not attempts:
                    self._open.pop(uid, None)

    def lose(self, uid: str) -> None:
        """The pod no longer exists: nothing that it was asked will be answered."""
        for attempt in tuple(self._open.get(uid, ())):
            attempt.lose()
