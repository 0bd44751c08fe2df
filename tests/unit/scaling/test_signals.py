"""What gateways say, put together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lull.api.llmdeployment import Key
from lull.core.signals import Sample, Service, find_woken, parse_sample, sum_demand

KEY = Key("default", "m")


def sample(at: float = 0.0, boot: str = "a", **model: Any) -> Sample:
    numbers = {"held": 0, "inFlight": 0, "arrived": 0, "sinceLast": None, **model}
    answer = {"gateway": "g", "boot": boot, "sequence": 1, "models": {str(KEY): numbers}}
    return parse_sample(json.dumps(answer).encode(), at=at)


def service(**fields: Any) -> dict[str, Any]:
    """As a gateway tells it: times of 0.1 s are in bucket 79, of 0.4 s in bucket 95."""
    return {"finished": 10, "met": 8, "missed": 1, "reading": 0.5, "firstToken": {}, "perToken": {}, **fields}


def hear(*samples: Sample | None, at: float = 1.0) -> Service | None:
    demand = sum_demand(KEY, samples, now=at, stale_after=10.0)
    assert demand is not None
    return demand.service


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


def test_adds_up_how_requests_fare() -> None:
    one = sample(arrived=12, service=service(firstToken={"79": 9}, perToken={"60": 3}))
    other = sample(
        boot="b", arrived=3, service=service(finished=2, reading=None, firstToken={"95": 1, "79": 1}, whole={"79": 1})
    )

    heard = hear(one, other)

    assert heard is not None
    assert (heard.arrived, heard.finished, heard.met, heard.missed) == (15, 12, 16, 2)
    assert heard.reading == pytest.approx(0.5)
    assert heard.first_token == pytest.approx(0.1, rel=0.1)
    assert heard.per_token is not None
    assert heard.whole == pytest.approx(0.1, rel=0.1)
    # Those who scrape engines say it.
    assert (heard.queued, heard.kv_usage) == (None, None)


def test_says_nothing_of_how_requests_fare_where_a_gateway_does_not() -> None:
    older = sample(boot="b", arrived=1)

    assert hear(older) is None
    assert hear(sample(service=service()), older) is None
    assert (
        hear(sample(service=service()), parse_sample(b'{"boot": "c", "sequence": 1, "models": {}}', at=0)) is not None
    )


def test_an_older_operator_reads_what_it_knows() -> None:
    """What is added to an answer is ignored by whoever does not know it."""
    content = {
        "boot": "a",
        "sequence": 1,
        "other": [],
        "models": {str(KEY): {"held": 1, "inFlight": 0, "arrived": 1, "later": 1, "service": service(later={"x": 1})}},
    }

    parsed = parse_sample(json.dumps(content).encode(), at=0.0)

    assert parsed.models[KEY].held == 1
    assert parsed.models[KEY].service is not None


def test_counts_begin_anew_with_a_gateway() -> None:
    def epoch(*boots: str | None) -> str:
        heard = hear(*(None if boot is None else sample(boot=boot, service=service()) for boot in boots))
        assert heard is not None
        return heard.epoch

    assert epoch("a", "b") == epoch("b", "a")
    assert len({epoch("a", "b"), epoch("a", "c"), epoch("a"), epoch("a", "b", "c")}) == 4
    assert epoch("a", None) == epoch("a")


@pytest.mark.parametrize(
    "wrong",
    [{"met": -1}, {"reading": 2}, {"firstToken": {"208": 1}}, {"perToken": {"x": 1}}, {"perToken": {"3": -1}}],
)
def test_refuses_counts_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no answer of a gateway"):
        sample(service=service(**wrong))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"<html>", b'{"boot": "a", "sequence": 1, "models": {"m": {}}}', b'{"boot": "a"}']
)
def test_refuses_what_is_no_answer(content: bytes) -> None:
    with pytest.raises(ValueError, match="no answer of a gateway"):
        parse_sample(content, at=0.0)
