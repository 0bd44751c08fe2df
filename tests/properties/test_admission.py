"""Whatever happens in whatever order: by priority, each tenant in turn, within bounds, and everybody exactly once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lull.api.llmdeployment import Key
from lull.core.admission import Admission, Limits, Ticket, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = Key("team-a", "llama")
LIMITS = Limits(max_held=5, max_held_bytes=50, hold_seconds=60.0)
ROOMY = Limits(max_held=10_000, max_held_bytes=10_000, hold_seconds=60.0)
SLOTS = 3
LANES = st.sampled_from(("", "adapter", "another"))
TENANTS = st.sampled_from(("ann", "bob", "cy"))
PRIORITIES = st.sampled_from((-1, 0, 0, 1))


class Lines(RuleBasedStateMachine):
    """A gateway in front of one endpoint with a few slots, that comes and goes, and so do its adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission()
        self.now = 0.0
        self.is_ready = False
        self.loaded: set[str] = set()
        self.held: list[Ticket] = []
        self.granted: list[Ticket] = []
        self.in_flight: list[Ticket] = []
        self.had_their_turn: set[Ticket] = set()
        self.arrived = 0
        self.again = 0

    def free(self, lane: str) -> int:
        is_served = self.is_ready and (not lane or lane in self.loaded)
        return SLOTS - len(self.in_flight) if is_served and len(self.in_flight) < SLOTS else 0

    def is_open(self, lane: str) -> bool:
        return self.free(lane) > len(self.granted)

    @rule(size=st.integers(0, 30), lane=LANES, tenant=TENANTS, priority=PRIORITIES)
    def arrive(self, size: int, lane: str, tenant: str, priority: int) -> None:
        self.now += 1
        self.arrived += 1
        has_room = self.is_open(lane) and not any(ticket.lane == lane for ticket in self.held)
        ticket, verdict, displaced = self.admission.arrive(
            KEY,
            size=size,
            limits=LIMITS,
            free=self.free(lane),
            now=self.now,
            lane=lane,
            tenant=tenant,
            priority=priority,
        )
        assert (verdict is Verdict.ADMIT) == has_room
        assert not displaced or verdict is Verdict.HOLD
        self.check_displaced(ticket, displaced)
        if verdict is Verdict.ADMIT:
            self.granted.append(ticket)
        elif verdict is Verdict.HOLD:
            self.held.append(ticket)
        else:
            # Not even all of lower priority would have made room.
            kept = [one for one in self.held if one not in self.find_less_important(ticket)]
            is_crowded = len(kept) >= LIMITS.max_held or sum(one.size for one in kept) + size > LIMITS.max_held_bytes
            assert is_crowded

    @rule()
    def note(self) -> None:
        self.now += 1
        self.arrived += 1
        before = self.admission.sequence
        self.admission.note(KEY, now=self.now)
        assert self.admission.sequence == before + 1

    @rule(is_ready=st.booleans())
    def change(self, is_ready: bool) -> None:
        self.is_ready = is_ready
        self.release()

    @rule(lane=LANES)
    def load_or_unload(self, lane: str) -> None:
        self.loaded ^= {lane}
        self.release()

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.granted))
        self.admission.start(ticket)
        self.granted.remove(ticket)
        self.in_flight.append(ticket)
        self.release()

    @precondition(lambda self: self.granted or self.in_flight)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.granted + self.in_flight))
        self.admission.hold_again(ticket)
        self._drop(ticket)
        self.held.append(ticket)
        self.had_their_turn.add(ticket)
        self.again += 1
        self.release()

    @precondition(lambda self: self.held or self.granted or self.in_flight)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.now += 1
        ticket = data.draw(st.sampled_from(self.held + self.granted + self.in_flight))
        self.admission.leave(ticket, now=self.now)
        self._drop(ticket)
        self.release()

    @rule()
    def turn_away(self) -> None:
        assert list(self.admission.empty(KEY)) == sorted(self.held, key=lambda ticket: ticket.number)
        self.held.clear()

    @rule(lane=LANES)
    def turn_away_lane(self, lane: str) -> None:
        gone = sorted((one for one in self.held if one.lane == lane), key=lambda ticket: ticket.number)
        assert list(self.admission.empty(KEY, (lane,))) == gone
        self.held = [ticket for ticket in self.held if ticket not in gone]

    def release(self) -> None:
        """Whoever goes has the highest priority of those who could go, and is the first of its tenant there."""
        for ticket in self.admission.release(KEY, free=self.free):
            could_go = [one for one in self.held if self.is_open(one.lane)]
            assert ticket in could_go
            assert ticket.priority == max(one.priority for one in could_go)
            equals = [one for one in could_go if one.priority == ticket.priority]
            again = [one for one in equals if one in self.had_their_turn]
            if again:
                assert ticket == min(again, key=lambda one: one.number)
            else:
                own = [one for one in equals if (one.tenant, one.lane) == (ticket.tenant, ticket.lane)]
                assert ticket == min(own, key=lambda one: one.number)
            self.held.remove(ticket)
            self.granted.append(ticket)
        assert not any(self.is_open(one.lane) for one in self.held)

    def check_displaced(self, ticket: Ticket, displaced: Iterable[Ticket]) -> None:
        """Lower priority goes first, and among equals nobody ends up with less than the one that came."""
        for one in displaced:
            assert one not in self.had_their_turn
            rivals = [other for other in self.held if other not in self.had_their_turn]
            assert one == max(
                (other for other in rivals if (other.tenant, other.priority) == (one.tenant, one.priority)),
                key=lambda other: other.number,
            )
            if one.priority < ticket.priority:
                assert one.priority == min(other.priority for other in rivals)
            else:
                equals = [other for other in rivals if other.priority == ticket.priority and other != one]
                theirs = [other.size for other in equals if other.tenant == one.tenant]
                own = [ticket.size, *(other.size for other in equals if other.tenant == ticket.tenant)]
                assert one.priority == ticket.priority
                assert len(theirs) >= len(own) or sum(theirs) >= sum(own)
            self.held.remove(one)

    def find_less_important(self, ticket: Ticket) -> list[Ticket]:
        return [one for one in self.held if one.priority < ticket.priority and one not in self.had_their_turn]

    @invariant()
    def counts_are_right(self) -> None:
        demand = self.admission.demand(now=self.now).get(KEY)
        if demand is None:
            assert self.arrived == 0
            return
        assert demand.held == len(self.held) <= LIMITS.max_held + self.again
        assert demand.held_bytes == sum(ticket.size for ticket in self.held)
        assert demand.in_flight == len(self.granted) + len(self.in_flight)
        assert demand.arrived == self.arrived
        assert demand.since_last >= 0
        assert set(self.admission.list_lanes(KEY)) == {ticket.lane for ticket in self.held if ticket.lane}

    def _drop(self, ticket: Ticket) -> None:
        for place in (self.held, self.granted, self.in_flight):
            if ticket in place:
                place.remove(ticket)


TestLines = Lines.TestCase


@given(st.lists(st.one_of(TENANTS, st.none()), max_size=200), st.integers(0, 5))
def test_tenants_that_wait_all_along_are_served_alike(events: list[str | None], flood: int) -> None:
    """None: a place becomes free. However many each has sent, those who wait get as many turns, give or take two."""
    admission, held = Admission(), Counter[str]()
    served: dict[tuple[str, str], int] = {}

    for event in (*["ann"] * flood * 10, *events):
        if event is not None:
            admission.arrive(KEY, size=0, limits=ROOMY, free=0, now=0.0, tenant=event)
            held[event] += 1
            continue
        for ticket in admission.release(KEY, free=lambda _: 1):
            admission.leave(ticket, now=0.0)
            waiting = [name for name in held if held[name]]
            held[ticket.tenant] -= 1
            served = {
                (one, other): served.get((one, other), 0) + (one == ticket.tenant) - (other == ticket.tenant)
                for one in waiting
                for other in waiting
            }
            assert all(abs(ahead) <= 2 for ahead in served.values())


@given(st.lists(TENANTS, min_size=1, max_size=60))
def test_a_full_line_is_shared(arrivals: list[str]) -> None:
    """Once all have asked for more than there is room, nobody has two places more than another who was turned away."""
    admission, held, shed = Admission(), Counter[str](), set[str]()
    limits = Limits(max_held=7, max_held_bytes=10_000, hold_seconds=60.0)

    for name in arrivals:
        ticket, verdict, displaced = admission.arrive(KEY, size=1, limits=limits, free=0, now=0.0, tenant=name)
        held[name] += verdict is Verdict.HOLD
        held.subtract(one.tenant for one in displaced)
        shed |= {one.tenant for one in displaced} | ({ticket.tenant} if verdict is Verdict.SHED_COUNT else set())
        if verdict is Verdict.SHED_COUNT:
            assert max(held.values()) <= held[name] + 1

    assert sum(held.values()) == min(len(arrivals), limits.max_held)
