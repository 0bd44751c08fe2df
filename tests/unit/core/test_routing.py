from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lull.api import names
from lull.api.llmdeployment import Key, parse_llmdeployment
from lull.core.affinity import Work
from lull.core.routing import (
    HORIZON,
    LONGEST_HORIZON,
    LONGEST_PENALTY,
    RETRY_BURST,
    SHORTEST_HORIZON,
    Candidate,
    Choice,
    Endpoint,
    RetryBudget,
    forget_blocks,
    free,
    has_adapter,
    is_open,
    parse_endpoint,
    pick,
    record_failure,
    record_finish,
    record_first_byte,
    record_start,
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


def work(*blocks: int, output: int = 100) -> Work:
    """A prompt of so many blocks of 256 tokens."""
    return Work(256 * len(blocks), output, blocks)


def asking(work: Work, *, turn: int = 0, slots: int = 4) -> Choice:
    return Choice(slots=slots, turn=turn, work=work)


def pool(size: int) -> list[Candidate]:
    return [candidate(f"uid-{number}") for number in range(size)]


def send(candidate: Candidate, work: Work) -> None:
    """A request from its start to its end."""
    record_start(candidate, work)
    record_first_byte(candidate, work)
    record_finish(candidate, work)


class TestWork:
    def test_tokens_are_outstanding_until_they_are_read_and_written(self) -> None:
        one, asked = candidate("a"), work(1, 2)

        record_start(one, asked)
        assert (one.in_flight, one.outstanding) == (1, 612)
        record_first_byte(one, asked)
        assert (one.in_flight, one.outstanding) == (1, 100)
        record_finish(one, asked)
        assert (one.in_flight, one.outstanding) == (0, 0)

    def test_a_try_that_ends_early_leaves_nothing(self) -> None:
        first, second, asked = candidate("a"), candidate("b"), work(1, 2)

        record_start(first, asked)
        record_finish(first, asked)
        record_start(second, asked)

        assert (first.in_flight, first.outstanding) == (0, 0)
        assert second.outstanding == 612

    def test_what_it_was_sent_before_is_not_outstanding(self) -> None:
        one = candidate("a")
        send(one, work(1, 2, 3))

        record_start(one, work(1, 2, 4, 5))

        assert one.outstanding == 2 * 256 + 100

    @given(st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=5), st.integers(0, 500)), max_size=20), st.data())
    def test_it_always_comes_back_to_nothing(self, asked: list[tuple[list[int], int]], data: st.DataObject) -> None:
        one = candidate("a")
        running = [work(*blocks, output=output) for blocks, output in asked]

        for started in running:
            record_start(one, started)
            assert one.outstanding >= 0
        for ended in data.draw(st.permutations(running)):
            if data.draw(st.booleans()):
                record_first_byte(one, ended)
            record_finish(one, ended, data.draw(st.none() | st.integers(0, 3000)))
            assert one.outstanding >= 0

        assert (one.in_flight, one.outstanding) == (0, 0)
        assert SHORTEST_HORIZON <= one.horizon <= LONGEST_HORIZON
        assert 0 <= one.luck <= 1


class TestLeastWork:
    def test_tokens_count_and_not_requests(self) -> None:
        busy, idle = pool(2)
        record_start(busy, work(1, 2, 3, 4, 5, 6, 7, 8))
        for number in (20, 30, 40):
            record_start(idle, work(number))

        assert pick([busy, idle], asking(Work(10, 10)), now=1.0) is idle

    def test_a_prompt_that_nobody_knows_goes_where_the_least_is_outstanding(self) -> None:
        endpoints = pool(4)
        for number, endpoint in enumerate(endpoints):
            record_start(endpoint, work(*range(100 * number, 100 * number + 4 * (4 - number))))

        assert pick(endpoints, asking(work(1, 2)), now=1.0) is endpoints[-1]


class TestAffinity:
    def test_the_next_turn_goes_where_the_last_one_was(self) -> None:
        endpoints = pool(8)
        first = pick(endpoints, asking(work(1, 2, 3)), now=1.0)
        assert first is not None
        send(first, work(1, 2, 3))

        picked = [pick(endpoints, asking(work(1, 2, 3, 4, 5), turn=turn), now=1.0) for turn in range(8)]

        assert picked == [first] * 8

    def test_also_where_that_one_has_somewhat_more_to_do(self) -> None:
        known, idle = pool(2)
        send(known, work(1, 2, 3))
        record_start(known, work(7, 8, 9))

        assert pick([known, idle], asking(work(1, 2, 3, 4)), now=1.0) is known

    def test_but_not_behind_a_long_queue_and_then_it_stays_where_it_went(self) -> None:
        known, idle = pool(2)
        send(known, work(1, 2, 3))
        queue = [work(*range(10 * number, 10 * number + 8)) for number in (1, 2, 3)]
        for one in queue:
            record_start(known, one)

        assert pick([known, idle], asking(work(1, 2, 3, 4)), now=1.0) is idle
        send(idle, work(1, 2, 3, 4))
        for one in queue:
            record_finish(known, one)
        assert pick([known, idle], asking(work(1, 2, 3, 4, 5)), now=1.0) is idle

    def test_a_full_endpoint_gets_nothing_however_much_it_knows(self) -> None:
        known, other = pool(2)
        send(known, work(1, 2, 3))
        known.in_flight = 4

        assert pick([known, other], asking(work(1, 2, 3)), now=1.0) is other

    def test_what_one_knows_counts_only_while_it_can_run_the_request_at_once(self) -> None:
        known, other = pool(2)
        send(known, work(1, 2, 3))
        known.outstanding, other.outstanding = 300, 200

        known.in_flight = 1
        assert pick([known, other], asking(work(1, 2, 3)), now=1.0) is known
        known.in_flight = 2
        assert pick([known, other], asking(work(1, 2, 3)), now=1.0) is other

    def test_an_engine_that_started_anew_knows_nothing(self) -> None:
        known, idle = pool(2)
        send(known, work(1, 2, 3))
        forget_blocks(known)
        record_start(known, work(7))

        assert pick([known, idle], asking(work(1, 2, 3)), now=1.0) is idle

    def test_what_was_sent_long_ago_is_forgotten(self) -> None:
        one, idle = pool(2)
        send(one, work(1, 2, 3))
        for number in range(int(HORIZON) // 256):
            send(one, work(10 + number, output=0))
        record_start(one, work(7))

        assert pick([one, idle], asking(work(1, 2, 3)), now=1.0) is idle

    def test_memory_is_bounded_whatever_is_sent(self) -> None:
        one = candidate("a")
        one.horizon = LONGEST_HORIZON

        for number in range(400):
            send(one, work(*range(1000 * number, 1000 * number + 256)))

        assert len(one.recent) + len(one.earlier) <= LONGEST_HORIZON / 256 + 256

    @given(st.integers(0, 2**32 - 1), st.integers(0, 5))
    def test_gateways_that_see_the_same_pick_the_same(self, block: int, turn: int) -> None:
        here, there = pool(8), list(reversed(pool(8)))

        mine = pick(here, asking(work(block, block + 1)), now=1.0)
        theirs = pick(there, asking(work(block, block + 1), turn=turn), now=9.0)

        assert mine is not None
        assert theirs is not None
        assert mine.endpoint.uid == theirs.endpoint.uid

    @given(st.integers(0, 2**32 - 1), st.integers(0, 7))
    def test_an_endpoint_that_goes_moves_its_own_and_nobody_elses(self, block: int, gone: int) -> None:
        endpoints = pool(8)
        before = pick(endpoints, asking(work(block)), now=1.0)

        after = pick([one for one in endpoints if one is not endpoints[gone]], asking(work(block)), now=1.0)

        assert after is before or before is endpoints[gone]

    def test_conversations_spread_evenly(self) -> None:
        endpoints = pool(8)

        homes = [pick(endpoints, asking(work(block * 2_654_435_761 % 2**32)), now=1.0) for block in range(4000)]

        counts = [sum(home is endpoint for home in homes) for endpoint in endpoints]
        assert min(counts) > 350
        assert max(counts) < 650

    def test_those_with_one_system_prompt_land_together_until_that_engine_is_loaded(self) -> None:
        endpoints = pool(4)
        system = tuple(range(1000, 1040))
        placed = []
        for number in range(200):
            asked = work(*system, number)
            engine = pick(endpoints, asking(asked, slots=512), now=1.0)
            assert engine is not None
            record_start(engine, asked)
            placed.append(engine)

        assert placed[1:50] == placed[:1] * 49
        assert len({one.endpoint.uid for one in placed}) > 1

    @given(
        st.lists(st.tuples(st.integers(0, 60_000), st.sets(st.sampled_from((1, 2, 3, 4)))), min_size=2, max_size=8),
        st.integers(0, 3),
    )
    def test_never_behind_more_than_what_it_saves_is_worth(self, states: list[tuple[int, set[int]]], luck: int) -> None:
        endpoints = pool(len(states))
        for endpoint, (outstanding, blocks) in zip(endpoints, states, strict=True):
            endpoint.outstanding, endpoint.recent, endpoint.luck = outstanding, blocks, luck / 10
        asked = work(1, 2, 3, 4)

        chosen = pick(endpoints, asking(asked), now=1.0)

        assert chosen is not None
        assert chosen.outstanding - min(one.outstanding for one in endpoints) <= 4.0 * asked.prompt_tokens


class TestLearning:
    def test_an_engine_that_forgets_sooner_is_remembered_for_less(self) -> None:
        one = candidate("a")
        send(one, work(*range(64)))
        one.tells = True

        for _ in range(10):
            asked = work(*range(64))
            record_start(one, asked)
            record_finish(one, asked, cached_tokens=0)

        assert one.horizon < HORIZON / 2

    def test_one_that_has_all_that_was_expected_is_remembered_for_more(self) -> None:
        one = candidate("a")
        send(one, work(*range(64)))

        for _ in range(30):
            asked = work(*range(64))
            record_start(one, asked)
            record_finish(one, asked, cached_tokens=asked.prompt_tokens)

        assert one.horizon > HORIZON * 2

    def test_nothing_is_learnt_from_an_engine_that_never_says_anything(self) -> None:
        one = candidate("a")
        for _ in range(10):
            asked = work(1, 2, 3)
            record_start(one, asked)
            record_finish(one, asked, cached_tokens=0)

        assert (one.horizon, one.luck) == (HORIZON, candidate("b").luck)

    def test_finds_that_other_gateways_made_possible_are_worth_a_detour(self) -> None:
        endpoints = pool(4)
        home = pick(endpoints, asking(work(1, 2, 3, 4)), now=1.0)
        assert home is not None
        home.outstanding = 256
        assert pick(endpoints, asking(work(1, 2, 3, 4)), now=1.0) is not home

        for number in range(100):
            asked = work(100 + 2 * number, 101 + 2 * number)
            record_start(home, asked)
            record_finish(home, asked, cached_tokens=400)

        assert pick(endpoints, asking(work(1, 2, 3, 4)), now=1.0) is home


class TestLeaving:
    def test_one_whose_node_goes_gets_nothing_while_another_is_open(self) -> None:
        leaving, staying = pool(2)
        send(leaving, work(1, 2, 3))
        leaving.leaving = True
        staying.in_flight = 3

        assert pick([leaving, staying], asking(work(1, 2, 3)), now=1.0) is staying
        assert free([leaving, staying], slots=4, now=1.0) == 1

    def test_not_even_when_the_other_is_full(self) -> None:
        leaving, staying = pool(2)
        leaving.leaving = True
        staying.in_flight = 4

        assert pick([leaving, staying], CHOICE, now=1.0) is None
        assert free([leaving, staying], slots=4, now=1.0) == 0

    def test_where_all_go_or_the_others_are_not_open_they_are_used(self) -> None:
        leaving, closed = candidate("leaving"), candidate("closed", ready=False)
        leaving.leaving = True

        assert pick([leaving, closed], CHOICE, now=1.0) is leaving

    def test_one_that_has_the_adapter_goes_before_one_that_has_not(self) -> None:
        leaving, staying = pool(2)
        leaving.leaving = True
        leaving.adapters = frozenset({"fr"})

        assert pick([leaving, staying], Choice(slots=4, turn=0, adapter="fr"), now=1.0) is leaving


@st.composite
def some_candidates(draw: st.DrawFn) -> list[Candidate]:
    endpoints = []
    for number in range(draw(st.integers(0, 8))):
        one = candidate(
            f"uid-{number}",
            in_flight=draw(st.integers(0, 5)),
            ready=draw(st.booleans()),
            avoid_until=draw(st.sampled_from((0.0, 5.0))),
        )
        one.adapters = draw(st.frozensets(st.sampled_from(("fr", "de"))))
        one.leaving = draw(st.booleans())
        one.outstanding = draw(st.integers(0, 20_000))
        one.recent = draw(st.sets(st.integers(0, 6)))
        endpoints.append(one)
    return endpoints


@given(
    some_candidates(),
    st.sampled_from(("", "fr")),
    st.frozensets(st.sampled_from([f"uid-{number}" for number in range(8)])),
    st.lists(st.integers(0, 6), max_size=5),
)
def test_whoever_is_picked_may_be_and_somebody_is_where_there_is_room(
    endpoints: list[Candidate], adapter: str, tried: frozenset[str], blocks: list[int]
) -> None:
    choice = Choice(slots=4, turn=3, tried=tried, adapter=adapter, work=work(*blocks))

    chosen = pick(endpoints, choice, now=1.0)

    room = free(endpoints, slots=4, now=1.0, adapter=adapter)
    assert (chosen is not None) == (room > 0)
    if chosen is not None:
        assert is_open(chosen, 1.0)
        assert chosen.in_flight < 4
        assert has_adapter(chosen, adapter)
        if chosen.endpoint.uid in tried:
            others = [one for one in endpoints if one.endpoint.uid not in tried]
            better = pick(others, choice, now=1.0)
            assert better is None or (better.leaving and not chosen.leaving)


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
