"""Admit, hold or shed: who waits for capacity, in which order, and for how long.

Sans-I/O. The shell reports what happens (a request arrives, capacity changes, a client leaves) together with the
number of requests that the endpoints could take right now, and carries out what is returned: the tickets to let go.
A request is in exactly one place at a time:

    arrive ──► held ──► granted ──► in flight ──► gone
       └───────────────────┘            │
             held again ◄───────────────┘   its engine failed before the first byte

Granted means let go, but not with an endpoint yet; it takes a place of those that are free.

Those who wait for one model wait in lanes: one for the model itself, which any endpoint serves, and one for each
adapter, which those endpoints serve that have it. A lane that nothing can be done for does not hold up the others.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Final

from lull.api.quantities import parse_duration, parse_quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

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
    lane: str = ""
    """The adapter; empty for the model itself."""


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
class _Lane:
    """Those who wait for the same thing."""

    held: dict[int, Ticket] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    """Heap of numbers; one that is no longer in `held` has left."""

    def add(self, ticket: Ticket) -> None:
        self.held[ticket.number] = ticket
        heapq.heappush(self.order, ticket.number)

    def find_oldest(self) -> int:
        while self.order[0] not in self.held:
            heapq.heappop(self.order)
        return self.order[0]

    def tidy(self) -> None:
        """Numbers of those who left are dropped once they outnumber those who wait: the heap is bounded too."""
        if len(self.order) > 2 * len(self.held) + 64:
            self.order = sorted(self.held)


@dataclass(slots=True)
class _Line:
    """Everything that concerns one model."""

    lanes: dict[str, _Lane] = field(default_factory=dict)
    """Only those in which somebody waits."""
    held: int = 0
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

    def arrive(
        self, key: Key, *, size: int, limits: Limits, free: int, now: float, lane: str = ""
    ) -> tuple[Ticket, Verdict]:
        """A request comes in. One that is shed is forgotten at once, but has counted as demand.

        `free` is what those endpoints can take that serve its lane.
        """
        line = self._lines.setdefault(key, _Line())
        self._numbers += 1
        ticket = Ticket(self._numbers, key, size, lane)
        line.arrived += 1
        line.last = now
        if lane not in line.lanes and free > len(line.granted):
            line.granted.add(ticket.number)
            return ticket, Verdict.ADMIT
        self.sequence += 1
        if line.held >= limits.max_held:
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

    def release(self, key: Key, *, free: Callable[[str], int]) -> tuple[Ticket, ...]:
        """Capacity may have changed: let go as many as it allows, oldest first; `free` tells it for a lane.

        All that are granted count in every lane, whichever endpoints they will take: the next call, when those have
        them, finds what is left.
        """
        line = self._lines.get(key)
        if line is None or not line.held:
            return ()
        all_free = free("")
        room: dict[str, int] = {}
        heads = [(held.find_oldest(), lane) for lane, held in line.lanes.items()]
        heapq.heapify(heads)
        released: list[Ticket] = []
        while heads and all_free > len(line.granted):
            number, lane = heapq.heappop(heads)
            if lane not in room:
                room[lane] = free(lane) if lane else all_free
            if room[lane] <= len(line.granted):
                continue
            released.append(_let_go(line, lane, number))
            line.granted.add(number)
            if lane in line.lanes:
                heapq.heappush(heads, (line.lanes[lane].find_oldest(), lane))
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
        lane = line.lanes.get(ticket.lane)
        if lane is not None and ticket.number in lane.held:
            _let_go(line, ticket.lane, ticket.number)
            lane.tidy()
        elif ticket.number in line.in_flight or ticket.number in line.granted:
            line.in_flight.discard(ticket.number)
            line.granted.discard(ticket.number)
        else:
            return
        line.last = now

    def empty(self, key: Key, lanes: Iterable[str] | None = None) -> tuple[Ticket, ...]:
        """Nothing will be served here any more, or not in these lanes: all held are to be turned away, oldest first."""
        line = self._lines.get(key)
        if line is None:
            return ()
        chosen = [
            line.lanes.pop(lane) for lane in (tuple(line.lanes) if lanes is None else lanes) if lane in line.lanes
        ]
        tickets = sorted((ticket for lane in chosen for ticket in lane.held.values()), key=lambda one: one.number)
        line.held -= len(tickets)
        line.held_bytes -= sum(ticket.size for ticket in tickets)
        return tuple(tickets)

    def forget(self, key: Key) -> None:
        """Drop the count of a model that is gone, once nothing of it is left here."""
        line = self._lines.get(key)
        if line is not None and not (line.held or line.granted or line.in_flight):
            del self._lines[key]

    def is_holding(self, key: Key) -> bool:
        line = self._lines.get(key)
        return line is not None and bool(line.held)

    def list_lanes(self, key: Key) -> tuple[str, ...]:
        """Adapters that somebody waits for."""
        line = self._lines.get(key)
        return tuple(lane for lane in line.lanes if lane) if line is not None else ()

    @property
    def models(self) -> tuple[Key, ...]:
        return tuple(self._lines)

    def demand(self, *, now: float) -> Mapping[Key, Demand]:
        return {
            key: Demand(
                held=line.held,
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
    line.lanes.setdefault(ticket.lane, _Lane()).add(ticket)
    line.held += 1
    line.held_bytes += ticket.size


def _let_go(line: _Line, lane: str, number: int) -> Ticket:
    ticket = line.lanes[lane].held.pop(number)
    if not line.lanes[lane].held:
        del line.lanes[lane]
    line.held -= 1
    line.held_bytes -= ticket.size
    return ticket
