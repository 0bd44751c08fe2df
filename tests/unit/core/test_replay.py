"""A part of the benchmark of routing: what it claims of the whole trace holds for its beginning."""

from __future__ import annotations

from functools import cache

import pytest

from bench.routing import LEAST, LULL, ORACLE, Case, run
from bench.routing.replay import Outcome
from bench.routing.trace import CONVERSATION, PLAIN

REQUESTS = 3000


@cache
def replay(rule: str, *, gateways: int = 1, load: str = "medium", trace: str = CONVERSATION) -> Outcome:
    room = "with KV offload" if trace == CONVERSATION else "GPU only"
    return run(Case(trace, room, load, engines=4, rule=rule, gateways=gateways, count=REQUESTS))


@pytest.mark.parametrize("load", ["light", "medium", "near saturation"])
def test_finds_most_of_what_one_finds_that_knows_everything(load: str) -> None:
    assert replay(LULL, load=load).hit_rate >= 0.8 * replay(ORACLE, load=load).hit_rate


@pytest.mark.parametrize("load", ["light", "medium", "near saturation"])
def test_the_slowest_are_no_slower_than_with_least_load(load: str) -> None:
    ours, least = replay(LULL, load=load), replay(LEAST, load=load)

    assert ours.p99 <= least.p99
    assert ours.mean <= least.mean


def test_gateways_that_do_not_talk_still_agree() -> None:
    ours, least = replay(LULL, gateways=4), replay(LEAST, gateways=4)

    assert ours.hit_rate >= 2 * least.hit_rate
    assert ours.mean <= least.mean


def test_where_nothing_is_shared_nothing_is_lost() -> None:
    ours, least = replay(LULL, trace=PLAIN), replay(LEAST, trace=PLAIN)

    assert ours.mean <= 1.02 * least.mean
    assert ours.p99 <= 1.05 * least.p99
