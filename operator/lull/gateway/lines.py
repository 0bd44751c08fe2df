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
    from lull.gateway.exchange import Exchange
    from lull.wire.openai import Refusal


class Lines:
    """Holds what `Admission` holds, and lets go what it lets go."""

    def __init__(
        self,
        free: Callable[[Key, str], int],
        *,
        on_go: Callable[[Exchange], None],
        on_refused: Callable[[Exchange, Refusal], None],
        displaced: Callable[[], Refusal],
    ) -> None:
        """`free`: requests for a model, or for an adapter of it, that could be passed on right now.

        `on_go` and `on_refused` tell what became of a request that waited. They are called in a turn of the event
        loop of their own, in the order in which requests were let go. `displaced` is what those are told whose place
        another needs more.
        """
        self._free = free
        self._on_go = on_go
        self._on_refused = on_refused
        self._displaced = displaced
        self._admission = Admission()
        self._held: dict[int, Exchange] = {}
        self._rung = asyncio.Event()
        self._closed: Callable[[], Refusal] | None = None
        self._call_soon = asyncio.get_running_loop().call_soon

    def arrive(self, exchange: Exchange, key: Key, limits: Limits) -> tuple[Ticket, Verdict]:
        """A request comes in."""
        api_key = exchange.key
        arrival = self._admission.arrive(
            key,
            size=exchange.size,
            limits=limits,
            free=self._free(key, exchange.adapter),
            now=clock.monotonic(),
            lane=exchange.adapter,
            tenant="" if api_key is None else api_key.id,
            priority=0 if api_key is None else api_key.priority,
        )
        for ticket in arrival.displaced:
            self._call_soon(self._refuse, ticket, self._held.pop(ticket.number), self._displaced())
        if arrival.verdict is Verdict.HOLD:
            self._hold(arrival.ticket, exchange)
        if arrival.verdict is not Verdict.ADMIT:
            self._ring()
        return arrival.ticket, arrival.verdict

    def has_room(self, key: Key, adapter: str) -> bool:
        """Whether a request that came now would be let go at once."""
        return self._admission.has_room(key, free=self._free(key, adapter), lane=adapter)

    def note(self, key: Key) -> None:
        """Another model serves what this one was asked for: its operator is to know that it was asked."""
        self._admission.note(key, now=clock.monotonic())
        self._ring()

    def hold_again(self, ticket: Ticket, exchange: Exchange) -> None:
        """Back in line after a failed try; let go at once where another endpoint has room."""
        self._admission.hold_again(ticket)
        self._hold(ticket, exchange)
        self.release(ticket.key)
        self._ring()

    def start(self, ticket: Ticket) -> None:
        self._admission.start(ticket)
        # Whoever waits in another lane may have been kept waiting by this one, which took an endpoint of its own.
        self.release(ticket.key)

    def leave(self, ticket: Ticket) -> None:
        """The request is over, and its place is free."""
        self._held.pop(ticket.number, None)
        self._admission.leave(ticket, now=clock.monotonic())
        self.release(ticket.key)

    def release(self, key: Key) -> None:
        """Let go what capacity allows."""
        if not self._admission.is_holding(key):
            return
        for ticket in self._admission.release(key, free=lambda adapter: self._free(key, adapter)):
            self._call_soon(self._let_go, ticket, self._held.pop(ticket.number))

    def turn_away(self, key: Key, refusal: Callable[[], Refusal], *, adapter: str | None = None) -> None:
        """Refuse everything that waits for a model, or for one adapter of it."""
        for ticket in self._admission.empty(key, None if adapter is None else (adapter,)):
            self._call_soon(self._refuse, ticket, self._held.pop(ticket.number), refusal())

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

    def _let_go(self, ticket: Ticket, exchange: Exchange) -> None:
        # Its time may have been over in the turn between, and another model have taken it on.
        if exchange.ticket is ticket:
            self._on_go(exchange)

    def _refuse(self, ticket: Ticket, exchange: Exchange, refusal: Refusal) -> None:
        if exchange.ticket is ticket:
            self._on_refused(exchange, refusal)

    def _hold(self, ticket: Ticket, exchange: Exchange) -> None:
        self._held[ticket.number] = exchange
        if self._closed is not None:
            self.turn_away(ticket.key, self._closed)

    def _ring(self) -> None:
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()
