"""What gateways say, put together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lull.api.llmdeployment import Key
from lull.core.signals import Sample, find_woken, parse_sample, sum_demand

KEY = Key("default", "m")


def sample(at: float = 0.0, boot: str = "a", **model: Any) -> Sample:
    numbers = {"held": 0, "inFlight": 0, "arrived": 0, "sinceLast": None, **model}
    answer = {"gateway": "g", "boot": boot, "sequence": 1, "models": {str(KEY): numbers}}
    return parse_sample(json.dumps(answer).encode(), at=at)


def test_adds_up_over_gateways() -> None:
    samples = (sample(held=1, inFlight=2, sinceLast=5.0), sample(held=3, inFlight=4, sinceLast=2.0))

    demand = sum_demand(KEY, samples, now=1.0, stale_after=10.0)

    assert demand is not None
    assert (demand.held, demand.in_flight, demand.last_request_at, demand.complete) == (4, 6, -2.0, True)


def test_knows_nothing_without_a_fresh_sample() -> None:
    assert sum_demand(KEY, (), now=0.0, stale_after=10.0) is None
    assert sum_demand(KEY, (None, sample(at=0.0)), now=11.0, stale_after=10.0) is None


def test_is_incomplete_where_a_gateway_is_silent() -> None:
    demand = sum_demand(KEY, (sample(at=10.0, held=1), sample(at=0.0, held=5)), now=11.0, stale_after=10.0)

    assert demand is not None
    assert (demand.held, demand.complete) == (1, False)


def test_a_model_that_no_gateway_names_has_no_demand() -> None:
    demand = sum_demand(Key("other", "m"), (sample(held=3),), now=0.0, stale_after=10.0)

    assert demand is not None
    assert not demand.is_any


@pytest.mark.parametrize(
    ("earlier", "later", "woken"),
    [
        (None, sample(held=1, arrived=1), True),
        (None, sample(), False),
        (sample(arrived=1), sample(arrived=2), True),
        (sample(held=2, arrived=2), sample(held=1, arrived=2), False),
        (sample(arrived=9), sample(boot="b", arrived=1), True),
    ],
)
def test_news_is_an_arrival_or_more_held(earlier: Sample | None, later: Sample, woken: bool) -> None:
    assert find_woken(later, earlier) == ((KEY,) if woken else ())


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"<html>", b'{"boot": "a", "sequence": 1, "models": {"m": {}}}', b'{"boot": "a"}']
)
def test_refuses_what_is_no_answer(content: bytes) -> None:
    with pytest.raises(ValueError, match="no answer of a gateway"):
        parse_sample(content, at=0.0)
