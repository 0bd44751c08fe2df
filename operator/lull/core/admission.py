"""Admit, hold or shed: who waits for capacity, in which order, and for how long.

Sans-I/O. The shell reports what happens (a request arrives, capacity changes, a client leaves) together with the
number of requests that the endpoints could take right now, and carries out what is returned: the tickets to let go.
A request is in exactly one place at a time:

    arrive ──► held ──► granted ──► in flight ──► gone
       └───────────────────┘            │
             held again ◄───────────────┘   its engine failed before the first byte

Granted means let go, but not with an endpoint yet; it takes a place of those that are free.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Final

from lull.api.quantities import parse_duration, parse_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lull.api.llmdeployment import Key, LLMDeployment

HOLD_BEFORE_FIRST_MEASUREMENT: Final = 600.0
HOLD_PER_COLD_START: Final = 3.0
HOLD_AT_LEAST: Final = 120.0
HOLD_AT_MOST: Final = 1800.0


@unique
class Verdict(StrEnum):
    ADMIT = "Admit"
    HOLD = "Hold"
    SHED_COUNT = "ShedCount"
    SHED_BYTES = "ShedBytes"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one gateway holds for one model, and for how long."""

    max_held: int
    max_held_bytes: int
    hold_seconds: float


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request's place in line."""

    number: int
    """Order of arrival."""
    key: Key
    size: int


@dataclass(frozen=True, slots=True)
class Demand:
    """What one model is asked for, as the operator reads it."""

    held: int
    held_bytes: int
    in_flight: int
    """Let go and not finished: with an endpoint, or about to be."""
    arrived: int
    since_last: float


@dataclass(slots=True)
class _Line:
    """Everything that concerns one model."""

    held: dict[int, Ticket] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    """Heap of numbers; one that is no longer in `held` has left."""
    held_bytes: int = 0
    granted: set[int] = field(default_factory=set)
    in_flight: set[int] = field(default_factory=set)
    arrived: int = 0
    last: float = 0.0


class Admission:
    """The lines of all models at one gateway."""

    def __init__(self) -> None:
        self._lines: dict[Key, _Line] = {}
        self._numbers = 0
        self.sequence = 0
        """Grows whenever a request finds no capacity: the operator's cue to look at demand at once."""

    def arrive(self, key: Key, *, size: int, limits: Limits, free: int, now: float) -> tuple[Ticket, Verdict]:
        """A request comes in. One that is shed is forgotten at once, but has counted as demand."""
        line = self._lines.setdefault(key, _Line())
        self._numbers += 1
        ticket = Ticket(self._numbers, key, size)
        line.arrived += 1
        line.last = now
        if not line.held and free > len(line.granted):
            line.granted.add(ticket.number)
            return ticket, Verdict.ADMIT
        self.sequence += 1
        if len(line.held) >= limits.max_held:
            return ticket, Verdict.SHED_COUNT
        if line.held_bytes + size > limits.max_held_bytes:
            return ticket, Verdict.SHED_BYTES
        _hold(line, ticket)
        return ticket, Verdict.HOLD

    def hold_again(self, ticket: Ticket) -> None:
        """Its engine failed before the first byte: back to its old place, ahead of all who came later.

        Bounds do not apply: it was let in once, and those in flight are bounded by what endpoints take.
        """
        line = self._lines[ticket.key]
        line.granted.discard(ticket.number)
        line.in_flight.discard(ticket.number)
        _hold(line, ticket)
        self.sequence += 1

    def release(self, key: Key, *, free: int) -> tuple[Ticket, ...]:
        """Capacity may have changed: let go as many as it allows, oldest first."""
        line = self._lines.get(key)
        if line is None:
            return ()
        released: list[Ticket] = []
        while line.held and free > len(line.granted):
            number = heapq.heappop(line.order)
            if number in line.held:
                released.append(_let_go(line, number))
                line.granted.add(number)
        return tuple(released)

    def start(self, ticket: Ticket) -> None:
        """A granted request has its endpoint."""
        line = self._lines[ticket.key]
        line.granted.discard(ticket.number)
        line.in_flight.add(ticket.number)

    def leave(self, ticket: Ticket, *, now: float) -> None:
        """A request is over, wherever it was: answered, expired, or its client is gone. Twice does no harm."""
        line = self._lines.get(ticket.key)
        if line is None:
            return
        if ticket.number in line.held:
            _let_go(line, ticket.number)
            _tidy(line)
        elif ticket.number in line.in_flight or ticket.number in line.granted:
            line.in_flight.discard(ticket.number)
            line.granted.discard(ticket.number)
        else:
            return
        line.last = now

    def empty(self, key: Key) -> tuple[Ticket, ...]:
        """Nothing will be served here any more: everything held is to be turned away, oldest first."""
        line = self._lines.get(key)
        if line is None:
            return ()
        tickets = tuple(line.held[number] for number in sorted(line.held))
        line.held.clear()
        line.order.clear()
        line.held_bytes = 0
        return tickets

    def forget(self, key: Key) -> None:
        """Drop the count of a model that is gone, once nothing of it is left here."""
        line = self._lines.get(key)
        if line is not None and not (line.held or line.granted or line.in_flight):
            del self._lines[key]

    def is_holding(self, key: Key) -> bool:
        line = self._lines.get(key)
        return line is not None and bool(line.held)

    @property
    def models(self) -> tuple[Key, ...]:
        return tuple(self._lines)

    def demand(self, *, now: float) -> Mapping[Key, Demand]:
        return {
            key: Demand(
                held=len(line.held),
                held_bytes=line.held_bytes,
                in_flight=len(line.granted) + len(line.in_flight),
                arrived=line.arrived,
                since_last=max(0.0, now - line.last),
            )
            for key, line in self._lines.items()
        }


def build_limits(deployment: LLMDeployment) -> Limits:
    queue = deployment.spec.queue
    return Limits(
        max_held=queue.max_held,
        max_held_bytes=int(parse_quantity(queue.max_held_bytes)),
        hold_seconds=_hold_seconds(queue.hold_for, deployment),
    )


def _hold_seconds(hold_for: str, deployment: LLMDeployment) -> float:
    if hold_for != "Auto":
        return parse_duration(hold_for)
    measured = deployment.status.cold_start
    if measured is None:
        return HOLD_BEFORE_FIRST_MEASUREMENT
    try:
        total = parse_duration(measured.total)
    except ValueError:
        # Status may come from another version of Lull; a door must not close over that.
        return HOLD_BEFORE_FIRST_MEASUREMENT
    return min(HOLD_AT_MOST, max(HOLD_AT_LEAST, HOLD_PER_COLD_START * total))


def _hold(line: _Line, ticket: Ticket) -> None:
    line.held[ticket.number] = ticket
    heapq.heappush(line.order, ticket.number)
    line.held_bytes += ticket.size


def _let_go(line: _Line, number: int) -> Ticket:
    ticket = line.held.pop(number)
    line.held_bytes -= ticket.size
    return ticket


def _tidy(line: _Line) -> None:
    """Numbers of those who left are dropped once they outnumber those who wait: the heap is bounded too."""
    if len(line.order) > 2 * len(line.held) + 64:
        line.order = sorted(line.held)
