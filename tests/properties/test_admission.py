"""Whatever happens in whatever order: first come, first served, within bounds, and everybody exactly once."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lull.api.llmdeployment import Key
from lull.core.admission import Admission, Limits, Ticket, Verdict

KEY = Key("team-a", "llama")
LIMITS = Limits(max_held=5, max_held_bytes=50, hold_seconds=60.0)
SLOTS = 3
LANES = st.sampled_from(("", "adapter", "another"))


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
        self.arrived = 0
        self.again = 0

    def free(self, lane: str) -> int:
        is_served = self.is_ready and (not lane or lane in self.loaded)
        return SLOTS - len(self.in_flight) if is_served and len(self.in_flight) < SLOTS else 0

    @rule(size=st.integers(0, 30), lane=LANES)
    def arrive(self, size: int, lane: str) -> None:
        self.now += 1
        self.arrived += 1
        has_room = self.free(lane) > len(self.granted) and not any(ticket.lane == lane for ticket in self.held)
        ticket, verdict = self.admission.arrive(
            KEY, size=size, limits=LIMITS, free=self.free(lane), now=self.now, lane=lane
        )
        assert (verdict is Verdict.ADMIT) == has_room
        if verdict is Verdict.ADMIT:
            self.granted.append(ticket)
        elif verdict is Verdict.HOLD:
            self.held.append(ticket)

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
        """The oldest first, and nobody waits for somebody who waits for something else."""
        released = self.admission.release(KEY, free=self.free)
        oldest = []
        for ticket in sorted(self.held, key=lambda ticket: ticket.number):
            if self.free(ticket.lane) > len(self.granted):
                oldest.append(ticket)
                self.granted.append(ticket)
        assert list(released) == oldest
        self.held = [ticket for ticket in self.held if ticket not in oldest]

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
