"""When replicas sleep, and the step that comes next for an engine in each of its states."""

from __future__ import annotations

import pytest

from lull.api import names
from lull.api.llmdeployment import Manifest
from lull.core.routing import parse_endpoint
from lull.core.signals import Demand
from lull.core.sleeping import (
    DEEPEST,
    SETTLE_SECONDS,
    FallAsleep,
    Mark,
    Quiet,
    Rest,
    Return,
    Sleeper,
    Spare,
    State,
    Step,
    WakeUp,
    build_conditions,
    choose_rest,
    parse_busy,
    parse_mark,
    parse_sleepers,
    parse_sleeping,
    plan_step,
)
from tests.manifests import manifest, stored

NOW = 1000.0
WALL = 1_800_000_000.0
OLD = WALL - SETTLE_SECONDS


def demand(*, held: int = 0, last: float | None = None, complete: bool = True) -> Demand:
    return Demand(held=held, in_flight=0, waiting=0, last_request_at=last, complete=complete)


def rest(
    asked: Demand | None,
    *,
    last: float | None = None,
    since: float = 0.0,
    ready_at: float | None = 0.0,
    beside: Manifest | None = None,
    **scaling: object,
) -> Rest:
    spec = stored(manifest(scaling={"sleep": {"after": "2m"}, **scaling}, **(beside or {}))).spec
    return choose_rest(spec, asked, Quiet(last, since, ready_at), now=NOW, wall=WALL)


class TestWish:
    def test_nobody_sleeps_unless_the_spec_says_so(self) -> None:
        assert rest(demand(), sleep=None) is Rest.AWAKE

    def test_replicas_sleep_when_nobody_has_asked_for_the_time_that_the_spec_says(self) -> None:
        assert rest(demand(last=NOW - 120)) is Rest.ASLEEP
        assert rest(demand(last=NOW - 119)) is Rest.AWAKE

    def test_a_held_request_wakes(self) -> None:
        assert rest(demand(held=1, last=NOW - 600)) is Rest.AWAKE

    def test_a_request_that_came_and_left_wakes(self) -> None:
        assert rest(demand(), last=NOW - 1) is Rest.AWAKE

    def test_an_operator_that_has_just_started_changes_nothing(self) -> None:
        assert rest(demand(), since=NOW) is Rest.STAY
        assert rest(demand(), since=NOW - 120) is Rest.ASLEEP

    def test_time_counts_from_when_the_youngest_replica_became_ready(self) -> None:
        assert rest(demand(last=NOW - 600), ready_at=NOW - 60) is Rest.STAY

    def test_nothing_changes_while_no_gateway_is_heard(self) -> None:
        assert rest(None) is Rest.STAY

    def test_whoever_asked_of_late_wakes_them_though_no_gateway_is_heard(self) -> None:
        assert rest(None, last=NOW - 119) is Rest.AWAKE
        assert rest(None, last=NOW - 120) is Rest.STAY

    def test_nobody_falls_asleep_while_a_gateway_is_not_heard(self) -> None:
        assert rest(demand(last=NOW - 600, complete=False)) is Rest.STAY
        assert rest(demand(held=1, complete=False)) is Rest.AWAKE

    def test_replicas_of_a_schedule_stay_awake(self) -> None:
        schedule = {"cron": "* * * * *", "duration": "1h", "minReplicas": 1}

        assert rest(demand(last=NOW - 600), schedules=[schedule]) is Rest.AWAKE
        assert rest(None, schedules=[schedule]) is Rest.AWAKE

    def test_shadow_puts_nobody_to_sleep(self) -> None:
        assert rest(demand(last=NOW - 600), mode="Shadow") is Rest.AWAKE

    def test_a_number_of_replicas_that_somebody_fixed_sleeps_as_well(self) -> None:
        assert rest(demand(last=NOW - 600), beside={"replicas": 2}) is Rest.ASLEEP


AWAKE, ASLEEP, BUSY = State(False, False), State(True, False), State(False, True)
NEW_MARK, MARK, DEEP = Mark(1, WALL), Mark(1, OLD), Mark(2, OLD)

STEPS: tuple[tuple[Rest, Mark | None, State, Step | None], ...] = (
    (Rest.ASLEEP, None, AWAKE, Spare(1)),
    (Rest.ASLEEP, NEW_MARK, AWAKE, None),
    (Rest.ASLEEP, MARK, BUSY, None),
    (Rest.ASLEEP, MARK, AWAKE, FallAsleep(1)),
    (Rest.ASLEEP, Mark(1, WALL + 3600), AWAKE, FallAsleep(1)),
    (Rest.ASLEEP, DEEP, AWAKE, Spare(1)),
    (Rest.ASLEEP, MARK, ASLEEP, None),
    (Rest.ASLEEP, DEEP, ASLEEP, None),
    (Rest.ASLEEP, None, ASLEEP, Spare(DEEPEST)),
    (Rest.AWAKE, None, AWAKE, None),
    (Rest.AWAKE, None, BUSY, None),
    (Rest.AWAKE, MARK, AWAKE, Return()),
    (Rest.AWAKE, MARK, ASLEEP, WakeUp(1)),
    (Rest.AWAKE, DEEP, ASLEEP, WakeUp(2)),
    (Rest.AWAKE, None, ASLEEP, Spare(DEEPEST)),
    (Rest.STAY, None, AWAKE, None),
    (Rest.STAY, MARK, AWAKE, Return()),
    (Rest.STAY, MARK, ASLEEP, None),
    (Rest.STAY, None, ASLEEP, Spare(DEEPEST)),
)


@pytest.mark.parametrize(("wanted", "mark", "state", "step"), STEPS)
def test_each_state_has_its_next_step(wanted: Rest, mark: Mark | None, state: State, step: Step | None) -> None:
    sleeper = Sleeper("uid", "pod", "http://engine", mark)

    assert plan_step(sleeper, state, wanted, level=1, wall=WALL) == step


def pod(*conditions: Manifest, address: str = "10.0.0.1", ready: str = "True") -> Manifest:
    return {
        "metadata": {"namespace": "default", "name": "a", "uid": "u", "labels": {names.LABEL_DEPLOYMENT: "m"}},
        "spec": {"containers": []},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": ready}, *conditions]},
    }


class TestMark:
    @pytest.mark.parametrize("level", [1, 2])
    def test_is_read_as_it_was_written(self, level: int) -> None:
        marked = pod(*build_conditions(pod(), Mark(level, WALL), wall=WALL)[1:])

        assert parse_mark(marked) == Mark(level, WALL)

    def test_leaves_the_kubelets_conditions_alone(self) -> None:
        marked = pod(*build_conditions(pod(), Mark(1, WALL), wall=WALL)[1:])

        conditions = build_conditions(marked, None, wall=WALL)

        assert [one["type"] for one in conditions] == ["Ready", names.CONDITION_ASLEEP]
        assert parse_mark(pod(*conditions[1:])) is None

    def test_of_somebody_else_is_the_deepest(self) -> None:
        condition = {"type": names.CONDITION_ASLEEP, "status": "True"}

        assert parse_mark(pod(condition)) == Mark(DEEPEST, 0.0)

    def test_keeps_gateways_away(self) -> None:
        endpoint = parse_endpoint(pod({"type": names.CONDITION_ASLEEP, "status": "True"}))
        awake = parse_endpoint(pod({"type": names.CONDITION_ASLEEP, "status": "False"}))

        assert endpoint is not None
        assert awake is not None
        assert (endpoint.ready, awake.ready) == (False, True)


def test_engines_are_found_where_their_kubelets_call_them_ready() -> None:
    found = parse_sleepers([pod(), pod(address="fd00::1"), pod(ready="False")])

    assert [one.url for one in found] == ["http://10.0.0.1:8000", "http://[fd00::1]:8000"]


class TestWords:
    def test_whether_it_sleeps_is_what_it_says(self) -> None:
        assert parse_sleeping(b'{"is_sleeping": true}')
        assert not parse_sleeping(b'{"is_sleeping": false}')

    @pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"is_sleeping": "no"}', b"null"])
    def test_anything_else_is_no_word(self, content: bytes) -> None:
        with pytest.raises(ValueError, match=r"sleeping|Expecting"):
            parse_sleeping(content)

    @pytest.mark.parametrize(("running", "waiting", "busy"), [(0, 0, False), (1, 0, True), (0, 2, True)])
    def test_it_is_busy_while_a_gauge_says_so(self, running: int, waiting: int, *, busy: bool) -> None:
        metrics = (
            "# TYPE vllm:num_requests_running gauge\n"
            f'vllm:num_requests_running{{engine="0",model_name="m"}} {running:.1f}\n'
            'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 7.0\n'
            f'vllm:num_requests_waiting{{engine="0",model_name="m"}} {waiting:.1f}\n'
        )

        assert parse_busy(metrics.encode()) is busy

    def test_an_engine_without_these_gauges_is_not_idle(self) -> None:
        with pytest.raises(ValueError, match="nothing about requests"):
            parse_busy(b"process_cpu_seconds_total 1.0\n")
