"""Admission at work: requests that wait, and whoever wants to know that there are any."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lull.core.admission import Admission, Verdict
from lull.doors import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lull.api.llmdeployment import Key
    from lull.core.admission import Demand, Limits, Ticket
    from lull.wire.openai import Refusal


class Lines:
    """Holds what `Admission` holds, and lets go what it lets go."""

    def __init__(self, free: Callable[[Key, str], int]) -> None:
        """`free`: requests for a model, or for an adapter of it, that could be passed on right now."""
        self._free = free
        self._admission = Admission()
        self._waiters: dict[int, asyncio.Future[Refusal | None]] = {}
        self._rung = asyncio.Event()
        self._closed: Callable[[], Refusal] | None = None

    def arrive(self, key: Key, *, size: int, limits: Limits, adapter: str = "") -> tuple[Ticket, Verdict]:
        # All are of one tenant here, so that nobody is displaced.
        ticket, verdict, _ = self._admission.arrive(
            key, size=size, limits=limits, free=self._free(key, adapter), now=clock.monotonic(), lane=adapter
        )
        if verdict is Verdict.HOLD:
            self._add_waiter(ticket)
        if verdict is not Verdict.ADMIT:
            self._ring()
        return ticket, verdict

    def hold_again(self, ticket: Ticket) -> None:
        """Back in line after a failed try; let go at once where another endpoint has room."""
        self._admission.hold_again(ticket)
        self._add_waiter(ticket)
        self.release(ticket.key)
        self._ring()

    def start(self, ticket: Ticket) -> None:
        self._admission.start(ticket)
        # Whoever waits in another lane may have been kept waiting by this one, which took an endpoint of its own.
        self.release(ticket.key)

    def leave(self, ticket: Ticket) -> None:
        """The request is over, and its place is free."""
        self._waiters.pop(ticket.number, None)
        self._admission.leave(ticket, now=clock.monotonic())
        self.release(ticket.key)

    def waiter(self, ticket: Ticket) -> asyncio.Future[Refusal | None] | None:
        """Done when the request is let go, or is turned away with a Refusal; None if it need not wait."""
        return self._waiters.get(ticket.number)

    def release(self, key: Key) -> None:
        """Let go what capacity allows."""
        if not self._admission.is_holding(key):
            return
        for ticket in self._admission.release(key, free=lambda adapter: self._free(key, adapter)):
            self._waiters.pop(ticket.number).set_result(None)

    def turn_away(self, key: Key, refusal: Callable[[], Refusal], *, adapter: str | None = None) -> None:
        """Refuse everything that waits for a model, or for one adapter of it."""
        for ticket in self._admission.empty(key, None if adapter is None else (adapter,)):
            self._waiters.pop(ticket.number).set_result(refusal())

    def forget(self, key: Key) -> None:
        """Drop the count of a model that is gone, once nothing of it is left here."""
        self._admission.forget(key)

    def close(self, refusal: Callable[[], Refusal]) -> None:
        """Hold nothing from now on."""
        self._closed = refusal
        for key in self._admission.models:
            self.turn_away(key, refusal)

    def list_adapters(self, key: Key) -> tuple[str, ...]:
        """Adapters of a model that somebody waits for."""
        return self._admission.list_lanes(key)

    @property
    def sequence(self) -> int:
        return self._admission.sequence

    def demand(self) -> Mapping[Key, Demand]:
        return self._admission.demand(now=clock.monotonic())

    async def wait_beyond(self, sequence: int) -> None:
        """Return once a request found no capacity after that point."""
        while self._admission.sequence <= sequence:
            await self._rung.wait()

    def _add_waiter(self, ticket: Ticket) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[ticket.number] = waiter
        if self._closed is not None:
            self.turn_away(ticket.key, self._closed)

    def _ring(self) -> None:
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()
