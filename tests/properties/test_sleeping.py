"""An engine on its way into sleep and out of it, with an operator that dies at any step and gateways that hear late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from lull.core.sleeping import FallAsleep, Mark, Rest, Return, Sleeper, Spare, State, Step, WakeUp, plan_step

LOOKS = 8
"""From any state to any other, with the wait for the mark to be heard of."""


@dataclass(frozen=True)
class World:
    """An engine, its pod, and what gateways have heard of it."""

    mark: Mark | None = None
    is_asleep: bool = False
    running: int = 0
    hung: int = 0
    """Requests that reached an engine which sleeps."""
    is_due: bool = False
    """An engine was told to sleep by an operator that died, and has not got to it."""
    seen: Mark | None = None
    """What gateways know of the mark."""
    wall: float = 0.0


def look(world: World, rest: Rest, *, level: int) -> tuple[World, Step | None]:
    """One look of the operator, carried out."""
    sleeper = Sleeper("uid", "pod", "http://engine", world.mark)
    state = State(world.is_asleep, is_busy=not world.is_asleep and world.running > 0)
    step = plan_step(sleeper, state, rest, level=level, wall=world.wall)
    return replace(carry_out(world, step), wall=world.wall + 1.0), step


def carry_out(world: World, step: Step | None) -> World:
    match step:
        case Spare(level):
            return replace(world, mark=Mark(level, world.wall))
        case FallAsleep():
            return replace(world, is_asleep=True)
        case WakeUp():
            return replace(world, is_asleep=False, running=world.running + world.hung, hung=0)
        case Return():
            return replace(world, mark=None)
        case None:
            return world


def happen(world: World, event: str, level: int) -> World:
    """Something that nobody chose, or a look of the operator at what is wanted just then."""
    if event in _CHANCES:
        return _CHANCES[event](world, level)
    return look(world, Rest(event), level=level)[0]


def arrive(world: World, _: int) -> World:
    if world.seen is not None:
        # Held by the gateway.
        return world
    return replace(world, hung=world.hung + world.is_asleep, running=world.running + (not world.is_asleep))


def die_in_the_middle(world: World, level: int) -> World:
    _, step = look(world, Rest.ASLEEP, level=level)
    return replace(world, is_due=isinstance(step, FallAsleep))


_CHANCES: dict[str, Callable[[World, int], World]] = {
    "request": arrive,
    "answer": lambda world, _: replace(world, running=max(0, world.running - 1)),
    "gateways hear": lambda world, _: replace(world, seen=world.mark),
    "engine restarts": lambda world, _: replace(world, is_asleep=False, running=0, hung=0, is_due=False),
    "operator dies": die_in_the_middle,
    "sleep comes late": lambda world, _: replace(world, is_asleep=world.is_asleep or world.is_due, is_due=False),
    "clock is set back": lambda world, _: replace(world, wall=world.wall - 3600),
}

EVENTS = st.lists(
    st.tuples(
        st.sampled_from([*map(str, Rest), *_CHANCES]),
        st.sampled_from([1, 2]),
    ),
    max_size=30,
)


def run(events: list[tuple[str, int]]) -> World:
    world = World()
    for event, level in events:
        world = happen(world, event, level)
    return world


def end(world: World, rest: Rest, *, level: int = 1) -> World:
    """What comes of it when nothing else happens any more."""
    world = happen(world, "sleep comes late", level)
    for _ in range(LOOKS):
        world, _ = look(world, rest, level=level)
    return world


@given(EVENTS)
def test_a_request_always_ends_in_an_engine_that_is_awake(events: list[tuple[str, int]]) -> None:
    world = end(run(events), Rest.AWAKE)

    assert (world.mark, world.is_asleep, world.hung) == (None, False, 0)


@given(EVENTS, st.sampled_from([1, 2]))
def test_quiet_always_ends_in_sleep(events: list[tuple[str, int]], level: int) -> None:
    world = end(replace(run(events), running=0), Rest.ASLEEP, level=level)

    assert world.is_asleep
    assert world.mark is not None


@given(EVENTS)
def test_no_engine_is_told_to_sleep_with_a_request_in_it_or_without_a_mark(events: list[tuple[str, int]]) -> None:
    world = run(events)

    _, step = look(world, Rest.ASLEEP, level=1)

    assert not isinstance(step, FallAsleep) or (world.mark is not None and not world.running)


@given(EVENTS)
def test_an_engine_that_sleeps_unmarked_is_marked_before_anything_else(events: list[tuple[str, int]]) -> None:
    world = run(events)

    for rest in Rest:
        _, step = look(replace(world, is_asleep=True, mark=None), rest, level=1)

        assert isinstance(step, Spare)


@given(EVENTS)
def test_who_knows_nothing_leaves_gateways_and_engine_of_one_mind(events: list[tuple[str, int]]) -> None:
    world = end(run(events), Rest.STAY)

    assert world.is_asleep is (world.mark is not None)


@given(EVENTS, st.sampled_from([Rest.AWAKE, Rest.STAY]))
def test_the_end_is_an_end(events: list[tuple[str, int]], rest: Rest) -> None:
    world = end(run(events), rest)

    assert look(world, rest, level=1)[1] is None
