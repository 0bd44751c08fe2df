from __future__ import annotations

from typing import Any

import pytest

from lull.api import names
from lull.api.llmdeployment import Key, parse_llmdeployment
from lull.core.routing import (
    LONGEST_PENALTY,
    RETRY_BURST,
    Candidate,
    Choice,
    Endpoint,
    RetryBudget,
    free,
    parse_endpoint,
    pick,
    record_failure,
    record_success,
    slots,
)


def candidate(name: str, *, in_flight: int = 0, ready: bool = True, avoid_until: float = 0.0) -> Candidate:
    endpoint = Endpoint(name, f"pod-{name}", Key("team-a", "llama"), "10.0.0.1", 8000, ready)
    return Candidate(endpoint, in_flight=in_flight, avoid_until=avoid_until)


def pod(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "team-a", "name": "p", "uid": "u", "labels": names.engine_labels("llama")},
        "spec": {"containers": [{"name": "engine"}]},
        "status": {"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}], **status},
    }


CHOICE = Choice(slots=4, turn=0)


class TestPick:
    def test_takes_the_one_with_the_least_in_flight(self) -> None:
        few = candidate("few", in_flight=1)

        assert pick([candidate("many", in_flight=2), few], CHOICE, now=1.0) is few

    def test_equals_take_turns(self) -> None:
        equals = [candidate("a"), candidate("b"), candidate("c", in_flight=1)]

        picked = [pick(equals, Choice(slots=4, turn=turn), now=1.0) for turn in range(4)]

        assert picked == [equals[0], equals[1], equals[0], equals[1]]

    def test_an_adapter_is_served_by_those_that_have_it_however_busy(self) -> None:
        idle, busy = candidate("idle"), candidate("busy", in_flight=3)
        busy.adapters = frozenset({"fr"})

        assert pick([idle, busy], Choice(slots=4, turn=0, adapter="fr"), now=1.0) is busy
        assert pick([idle, busy], CHOICE, now=1.0) is idle
        assert pick([idle], Choice(slots=4, turn=0, adapter="fr"), now=1.0) is None
        assert free([idle, busy], slots=4, now=1.0, adapter="fr") == 1
        assert free([idle, busy], slots=4, now=1.0) == 5

    @pytest.mark.parametrize(
        "unfit", [candidate("x", ready=False), candidate("x", in_flight=4), candidate("x", avoid_until=2.0)]
    )
    def test_leaves_out_what_drains_is_full_or_has_just_failed(self, unfit: Candidate) -> None:
        fit = candidate("fit", in_flight=3)

        assert pick([unfit, fit], CHOICE, now=1.0) is fit
        assert pick([unfit], CHOICE, now=1.0) is None

    def test_one_that_failed_this_request_is_the_last_resort(self) -> None:
        tried = candidate("tried")
        other = candidate("other", in_flight=3)
        choice = Choice(slots=4, turn=0, tried={"tried"})

        assert pick([tried, other], choice, now=1.0) is other
        assert pick([tried], choice, now=1.0) is tried


def test_free_counts_open_slots_only() -> None:
    candidates = [
        candidate("a", in_flight=1),
        candidate("over", in_flight=9),
        candidate("draining", ready=False),
        candidate("failed", avoid_until=2.0),
    ]

    assert free(candidates, slots=4, now=1.0) == 3


class TestFailures:
    def test_the_same_death_seen_by_many_requests_counts_once(self) -> None:
        one = candidate("a")

        until = {record_failure(one, now=now) for now in (1.0, 1.1, 1.2)}

        assert until == {1.25}
        assert one.failures == 1

    def test_each_further_failure_is_avoided_longer_up_to_a_limit(self) -> None:
        one = candidate("a")
        now = 1.0
        pauses = []
        for _ in range(8):
            until = record_failure(one, now=now)
            pauses.append(until - now)
            now = until

        assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_PENALTY, LONGEST_PENALTY]
        record_success(one)
        assert record_failure(one, now=now) - now == 0.25


class TestParseEndpoint:
    def test_a_ready_pod_is_an_endpoint(self) -> None:
        endpoint = parse_endpoint(pod())

        assert endpoint == Endpoint("u", "p", Key("team-a", "llama"), "10.0.0.7", 8000, ready=True)
        assert endpoint.origin == "http://10.0.0.7:8000"

    def test_an_ipv6_address_is_bracketed(self) -> None:
        endpoint = parse_endpoint(pod(podIP="fd00::7"))

        assert endpoint is not None
        assert endpoint.origin == "http://[fd00::7]:8000"

    def test_a_pod_without_address_or_owner_is_none(self) -> None:
        assert parse_endpoint(pod(podIP=None)) is None
        stranger = pod()
        stranger["metadata"]["labels"] = {}
        assert parse_endpoint(stranger) is None

    def test_a_pod_that_is_being_deleted_drains_at_once(self) -> None:
        leaving = pod()
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

        endpoint = parse_endpoint(leaving)

        assert endpoint is not None
        assert not endpoint.ready

    def test_the_port_is_that_of_the_container(self) -> None:
        manifest = pod()
        manifest["spec"]["containers"][0]["ports"] = [
            {"name": "other", "containerPort": 1},
            {"name": "http", "containerPort": 9000},
        ]

        endpoint = parse_endpoint(manifest)

        assert endpoint is not None
        assert endpoint.port == 9000


def test_slots_follow_what_an_engine_runs_at_a_time() -> None:
    def with_engine(**engine: int) -> int:
        return slots(parse_llmdeployment({"spec": {"model": {"source": "hf://a/b"}, "engine": engine}}))

    assert with_engine(maxNumSeqs=8) == 16
    assert with_engine() == 512


class TestRetryBudget:
    def test_a_death_that_hits_many_requests_is_covered(self) -> None:
        budget = RetryBudget()

        assert {budget.take(now=100.0) for _ in range(int(RETRY_BURST))} == {0.0}
        assert budget.take(now=100.0) > 0.0

    def test_beyond_that_retries_are_spread_over_time(self) -> None:
        budget = RetryBudget()

        waits = [budget.take(now=100.0) for _ in range(int(RETRY_BURST) + 50)]

        assert waits[-1] == pytest.approx(5.0)

    def test_requests_earn_a_fifth_of_a_retry_each(self) -> None:
        budget = RetryBudget()
        for _ in range(int(RETRY_BURST)):
            budget.take(now=100.0)
        for _ in range(10):
            budget.record_request(now=100.0)

        assert [budget.take(now=100.0) for _ in range(3)] == pytest.approx([0.0, 0.0, 0.1])
