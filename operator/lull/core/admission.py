"""Admit, hold or shed: who waits for capacity, in which order, and for how long.

Sans-I/O. The shell reports what happens (a request arrives, capacity changes, a client leaves) together with the
number of requests that the endpoints could take right now, and carries out what is returned: the tickets to let go,
and those to turn away. A request is in exactly one place at a time:

    arrive ──► held ──► granted ──► in flight ──► gone
       └───────────────────┘            │
             held again ◄───────────────┘   its engine failed before the first byte

Granted means let go, but not with an endpoint yet; it takes a place of those that are free.

Those who wait for one model wait in lanes: one for the model itself, which any endpoint serves, and one for each
adapter, which those endpoints serve that have it. A lane that nothing can be done for does not hold up the others.

Of those for whom something can be done the order is: higher priority first, whatever the lower ones wait; within a
priority each tenant in turn, however many it has waiting; within a tenant first come, first served. Turns are
start-time fair queueing with requests of cost one: a tenant's next request starts in the round after the one that its
last was let go in, or in the present round if that was long ago, and the earliest round goes first. One that is held
again has had its turn, and goes ahead of all of its priority.

A full line is shared in the same way. One that comes takes the place of the newest of lower priority, as many as it
needs; else of the newest of the tenant that has most waiting, one for one and only where that has more than its own.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Final, NamedTuple

from lull.api.llmdeployment import Key  # noqa: TC001  mypyc evaluates what annotates a field
from lull.api.quantities import parse_duration, parse_quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lull.api.llmdeployment import LLMDeployment

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
    """How much one gateway holds for one model, and how long it waits for what; worked out once for each spec."""

    max_held: int
    max_held_bytes: int
    hold_seconds: float
    first_byte_seconds: float | None = None
    """Here and below, None: as long as for any model."""
    idle_seconds: float | None = None
    """Of silence within an answer."""
    slo_first_token: float = 3.0
    """Here and below: the longest time within `spec.slo`."""
    slo_per_token: float = 0.1
    total_seconds: float = 3600.0
    """From being let go to the end of the answer."""
    is_plain: bool = True
    """No other model, no memory and no second engine has a part in its answers, so that nobody needs to look."""


class Ticket:
    """One request's place in line."""

    __slots__ = ("key", "lane", "number", "priority", "size", "tenant")

    def __init__(self, number: int, key: Key, size: int, lane: str, tenant: str, priority: int) -> None:
        self.number = number
        """Order of arrival."""
        self.key = key
        self.size = size
        self.lane = lane
        """The adapter; empty for the model itself."""
        self.tenant = tenant
        """Whoever the line is fair to: the id of an API key."""
        self.priority = priority


class Arrival(NamedTuple):
    """What became of a request that came in."""

    ticket: Ticket
    verdict: Verdict
    displaced: tuple[Ticket, ...] = ()
    """Those that gave up their places in a full line for it: they are held no more, and are to be shed."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one model is asked for, as the operator reads it."""

    held: int
    held_bytes: int
    in_flight: int
    """Let go and not finished: with an endpoint, or about to be."""
    arrived: int
    since_last: float


@dataclass(slots=True, eq=False)
class _Tenant:
    """Of one priority: what it has waiting, and which turn is its next."""

    round: int = 0
    """No request of its starts before this round."""
    held: int = 0
    held_bytes: int = 0
    flows: dict[str, _Flow] = field(default_factory=dict)
    """By lane; only those in which somebody waits."""

    def find_newest(self) -> Ticket:
        return max((flow.find_newest() for flow in self.flows.values()), key=lambda ticket: ticket.number)


@dataclass(slots=True, eq=False)
class _Flow:
    """Those of one tenant who wait in one lane; or one that is held again, by itself."""

    tenant: _Tenant | None
    round: int
    """When its first may start, as far as this lane goes."""
    waiting: OrderedDict[int, Ticket] = field(default_factory=OrderedDict)
    """By number, oldest first."""

    def rank(self) -> _Rank:
        """Its place among the flows of its lane: the lowest goes first."""
        first = next(iter(self.waiting.values()))
        return (
            -first.priority,
            self.round if self.tenant is None else max(self.round, self.tenant.round),
            first.number,
        )

    def find_newest(self) -> Ticket:
        return next(reversed(self.waiting.values()))


_Rank = tuple[int, int, int]

_HAD_ITS_TURN: Final = -1
"""The round of those that are held again."""


@dataclass(slots=True, eq=False)
class _Level:
    """Those of one priority, those held again aside."""

    round: int = 0
    """The latest round of which somebody was let go."""
    held: int = 0
    held_bytes: int = 0
    tenants: dict[str, _Tenant] = field(default_factory=dict)
    idle: set[str] = field(default_factory=set)
    """Tenants that nobody waits of, known for what is left of the round."""

    def find_greediest(self) -> _Tenant:
        return max(self.tenants.values(), key=lambda tenant: tenant.held)

    def find_heaviest(self) -> _Tenant:
        return max(self.tenants.values(), key=lambda tenant: (tenant.held_bytes, tenant.held))

    def take_turn(self, tenant: _Tenant, number: int) -> None:
        """A tenant has had one let go, of this round."""
        if number > self.round:
            self.round = number
            # Whoever has its next turn in this round is like one that was never here.
            for name in self.idle:
                del self.tenants[name]
            self.idle.clear()
        # Of the present round, even where its lane was closed in many before: turns are not saved up.
        tenant.round = self.round + 1


@dataclass(slots=True, eq=False)
class _Lane:
    """Those who wait for the same thing."""

    flows: int = 0
    """In which somebody waits."""
    order: list[tuple[_Rank, int, _Flow]] = field(default_factory=list)
    """Heap with one item for each flow. Ranks only rise, so that an outdated one is found when it comes to the top;
    a flow that is empty stays empty, and goes then, too. The number in the middle keeps flows from being compared."""

    def add(self, flow: _Flow) -> None:
        self.flows += 1
        heapq.heappush(self.order, (flow.rank(), id(flow), flow))

    def find_first(self) -> tuple[_Rank, _Flow]:
        while True:
            rank, tie, flow = self.order[0]
            if not flow.waiting:
                heapq.heappop(self.order)
            elif (present := flow.rank()) != rank:
                heapq.heapreplace(self.order, (present, tie, flow))
            else:
                return rank, flow

    def tidy(self) -> None:
        """Empty flows are dropped once they outnumber the others: the heap is bounded too."""
        if len(self.order) > 2 * self.flows + 64:
            self.order = [(flow.rank(), tie, flow) for _, tie, flow in self.order if flow.waiting]
            heapq.heapify(self.order)


@dataclass(slots=True, eq=False)
class _Line:
    """Everything that concerns one model."""

    lanes: dict[str, _Lane] = field(default_factory=dict)
    """Only those in which somebody waits."""
    levels: dict[int, _Level] = field(default_factory=dict)
    """Only those of which somebody waits, those held again aside."""
    held: dict[int, _Flow] = field(default_factory=dict)
    """By number: where each one waits."""
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
        self,
        key: Key,
        *,
        size: int,
        limits: Limits,
        free: int,
        now: float,
        lane: str = "",
        tenant: str = "",
        priority: int = 0,
    ) -> Arrival:
        """A request comes in. One that is shed is forgotten at once, but has counted as demand.

        `free` is what those endpoints can take that serve its lane.
        """
        line = self._find(key)
        self._numbers += 1
        ticket = Ticket(self._numbers, key, size, lane, tenant, priority)
        line.arrived += 1
        line.last = now
        if lane not in line.lanes and free > len(line.granted):
            line.granted.add(ticket.number)
            return Arrival(ticket, Verdict.ADMIT)
        self.sequence += 1
        too_many = len(line.held) + 1 - limits.max_held
        too_large = line.held_bytes + size - limits.max_held_bytes
        displaced: tuple[Ticket, ...] = ()
        if too_many > 0 or too_large > 0:
            displaced = _displace(line, ticket, too_many=too_many, too_large=too_large)
            if not displaced:
                return Arrival(ticket, Verdict.SHED_COUNT if too_many > 0 else Verdict.SHED_BYTES)
        _hold(line, ticket)
        return Arrival(ticket, Verdict.HOLD, displaced)

    def note(self, key: Key, *, now: float) -> None:
        """A request for a model without capacity is served by another one: it is demand all the same."""
        line = self._find(key)
        line.arrived += 1
        line.last = now
        self.sequence += 1

    def hold_again(self, ticket: Ticket) -> None:
        """Its engine failed before the first byte: back in line, ahead of all of its priority that had no turn yet.

        Bounds do not apply: it was let in once, and those in flight are bounded by what endpoints take.
        """
        line = self._lines[ticket.key]
        line.granted.discard(ticket.number)
        line.in_flight.discard(ticket.number)
        flow = _Flow(None, _HAD_ITS_TURN, OrderedDict({ticket.number: ticket}))
        line.lanes.setdefault(ticket.lane, _Lane()).add(flow)
        line.held[ticket.number] = flow
        line.held_bytes += ticket.size
        self.sequence += 1

    def release(self, key: Key, *, free: Callable[[str], int]) -> tuple[Ticket, ...]:
        """Capacity may have changed: let go as many as it allows, in their order; `free` tells it for a lane.

        All that are granted count in every lane, whichever endpoints they will take: the next call, when those have
        them, finds what is left.
        """
        line = self._lines.get(key)
        if line is None or not line.held:
            return ()
        all_free = free("")
        if all_free <= len(line.granted):
            return ()
        room: dict[str, int] = {}
        heads = [(held.find_first()[0], lane) for lane, held in line.lanes.items()]
        heapq.heapify(heads)
        released: list[Ticket] = []
        while heads and all_free > len(line.granted):
            rank, lane = heapq.heappop(heads)
            if lane not in room:
                room[lane] = free(lane) if lane else all_free
            if room[lane] <= len(line.granted):
                continue
            present, flow = line.lanes[lane].find_first()
            if present != rank:
                # Its tenant has had a turn in another lane meanwhile.
                heapq.heappush(heads, (present, lane))
                continue
            _, turn, number = rank
            ticket = flow.waiting[number]
            if flow.tenant is not None:
                line.levels[ticket.priority].take_turn(flow.tenant, turn)
            _let_go(line, ticket)
            line.granted.add(number)
            released.append(ticket)
            if lane in line.lanes:
                heapq.heappush(heads, (line.lanes[lane].find_first()[0], lane))
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
            _let_go(line, ticket)
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
        chosen = line.lanes.keys() if lanes is None else frozenset(lanes)
        tickets = [ticket for number, flow in line.held.items() if (ticket := flow.waiting[number]).lane in chosen]
        for ticket in tickets:
            _let_go(line, ticket)
        return tuple(sorted(tickets, key=lambda ticket: ticket.number))

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

    def has_room(self, key: Key, *, free: int, lane: str = "") -> bool:
        """Whether a request that came now would be let go at once."""
        line = self._lines.get(key)
        return free > 0 if line is None else lane not in line.lanes and free > len(line.granted)

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

    def _find(self, key: Key) -> _Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        return line


def build_limits(deployment: LLMDeployment) -> Limits:
    spec = deployment.spec
    queue, timeouts = spec.queue, spec.requests.timeouts
    return Limits(
        max_held=queue.max_held,
        max_held_bytes=int(parse_quantity(queue.max_held_bytes)),
        hold_seconds=_hold_seconds(queue.hold_for, deployment),
        first_byte_seconds=None if timeouts.first_byte is None else parse_duration(timeouts.first_byte),
        idle_seconds=None if timeouts.between_chunks is None else parse_duration(timeouts.between_chunks),
        slo_first_token=parse_duration(spec.slo.time_to_first_token),
        slo_per_token=parse_duration(spec.slo.time_per_output_token),
        total_seconds=parse_duration(timeouts.total),
        is_plain=not (spec.routes or spec.fallback or spec.requests.cache or spec.requests.continue_streams),
    )


def _hold_seconds(hold_for: str, deployment: LLMDeployment) -> float:
    if hold_for != "Auto":
        return parse_duration(hold_for)
    cold_start = deployment.cold_start
    if cold_start is None:
        return HOLD_BEFORE_FIRST_MEASUREMENT
    return min(HOLD_AT_MOST, max(HOLD_AT_LEAST, HOLD_PER_COLD_START * cold_start))


def _hold(line: _Line, ticket: Ticket) -> None:
    level = line.levels.setdefault(ticket.priority, _Level())
    tenant = level.tenants.setdefault(ticket.tenant, _Tenant())
    level.idle.discard(ticket.tenant)
    flow = tenant.flows.get(ticket.lane)
    if flow is None:
        flow = tenant.flows[ticket.lane] = _Flow(tenant, level.round)
        flow.waiting[ticket.number] = ticket
        line.lanes.setdefault(ticket.lane, _Lane()).add(flow)
    else:
        flow.waiting[ticket.number] = ticket
    for place in (level, tenant):
        place.held += 1
        place.held_bytes += ticket.size
    line.held[ticket.number] = flow
    line.held_bytes += ticket.size


def _let_go(line: _Line, ticket: Ticket) -> None:
    """It waits no more, for whatever reason."""
    flow = line.held.pop(ticket.number)
    line.held_bytes -= ticket.size
    del flow.waiting[ticket.number]
    if flow.tenant is not None:
        _give_up_place(line, flow.tenant, ticket)
    if flow.waiting:
        return
    lane = line.lanes[ticket.lane]
    lane.flows -= 1
    if lane.flows:
        lane.tidy()
    else:
        del line.lanes[ticket.lane]


def _give_up_place(line: _Line, tenant: _Tenant, ticket: Ticket) -> None:
    level = line.levels[ticket.priority]
    for place in (level, tenant):
        place.held -= 1
        place.held_bytes -= ticket.size
    if not tenant.flows[ticket.lane].waiting:
        del tenant.flows[ticket.lane]
    if not level.held:
        # Nobody of this priority waits for anybody else: turns begin anew.
        del line.levels[ticket.priority]
    elif not tenant.held:
        if tenant.round > level.round:
            level.idle.add(ticket.tenant)
        else:
            del level.tenants[ticket.tenant]


def _displace(line: _Line, ticket: Ticket, *, too_many: int, too_large: int) -> tuple[Ticket, ...]:
    """Make room for one in a full line, and tell who gave it; nobody where that would not be fair."""
    lower = sorted(priority for priority in line.levels if priority < ticket.priority)
    if (
        sum(line.levels[priority].held for priority in lower) >= too_many
        and sum(line.levels[priority].held_bytes for priority in lower) >= too_large
    ):
        displaced: list[Ticket] = []
        while too_many > 0 or too_large > 0:
            lowest = line.levels[next(priority for priority in lower if priority in line.levels)]
            displaced.append(lowest.find_greediest().find_newest())
            _let_go(line, displaced[-1])
            too_many -= 1
            too_large -= displaced[-1].size
        return tuple(displaced)
    level = line.levels.get(ticket.priority)
    if level is None or too_many > 1:
        return ()
    own = level.tenants.get(ticket.tenant, _Tenant())
    other = level.find_greediest() if too_many > 0 else level.find_heaviest()
    newest = other.find_newest()
    is_fair = (
        other.held > own.held + 1
        if too_many > 0
        else other is not own and other.held_bytes - newest.size >= own.held_bytes + ticket.size
    )
    if not is_fair or newest.size < too_large:
        return ()
    _let_go(line, newest)
    return (newest,)
