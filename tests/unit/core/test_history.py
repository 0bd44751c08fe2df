"""Prometheus' answers, as series."""

from __future__ import annotations

from math import nan
from typing import Any

import pytest

from lull.api.llmdeployment import Key
from lull.core.forecast import Series
from lull.core.history import Span, Unreadable, ask_arrivals, extend, find_span, parse_matrix, parse_value

SPAN = Span(600.0, 1500.0, 300.0)


def test_asks_for_both_spellings_of_the_namespace() -> None:
    query = ask_arrivals(Key("team-a", "llama"), step=300.0)

    assert query.startswith('sum(rate(lull_gateway_requests_total{exported_namespace="team-a",name="llama",code=~"2..')
    assert 'or sum(rate(lull_gateway_requests_total{namespace="team-a",exported_namespace="",name="llama",' in query
    assert query.endswith("[300s])) or 0 * sum(lull_gateway_limits_shared)")


def test_a_span_ends_with_the_last_whole_step() -> None:
    assert find_span(1_000_123.0, days=2, step=300.0) == Span(999_900.0 - 2 * 86400, 999_900.0, 300.0)


def test_a_sample_is_about_the_step_that_ends_with_it() -> None:
    answer = [{"metric": {}, "values": [[900, "1.5"], [1500, "-0.1"]]}]

    assert parse_matrix(answer, SPAN) == Series(600.0, 300.0, (1.5, None, 0.0))


def test_what_is_no_number_was_not_counted() -> None:
    answer = [{"metric": {}, "values": [[900, "NaN"], [1200, "+Inf"], [1500, "2"], [1800, "9"], [600, "9"]]}]

    assert parse_matrix(answer, SPAN).values == (None, None, 2.0)
    assert parse_matrix([], SPAN).values == (None, None, None)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        "x",
        [{}],
        [{"values": {}}],
        [{"values": [[1]]}],
        [{"values": [["1", "2"]]}],
        [{"values": [[900, 2.0]]}],
        [{"values": [[900, "two"]]}],
        [{"values": []}, {"values": []}],
    ],
)
def test_anything_else_is_no_answer(answer: Any) -> None:
    with pytest.raises(Unreadable):
        parse_matrix(answer, SPAN)


def test_reads_one_number() -> None:
    assert parse_value([{"metric": {}, "value": [1, "2.5"]}]) == 2.5
    assert parse_value([]) is None
    assert parse_value([{"metric": {}, "value": [1, str(nan)]}]) is None
    with pytest.raises(Unreadable):
        parse_value([{"metric": {}, "value": [1, "x"]}])


def test_what_is_heard_later_replaces_what_was_known_and_no_more_is_kept_than_asked_for() -> None:
    known = Series(0.0, 300.0, (1.0, 2.0, 3.0))

    assert extend(known, Series(600.0, 300.0, (4.0, 5.0)), keep=10) == Series(0.0, 300.0, (1.0, 2.0, 4.0, 5.0))
    assert extend(known, Series(600.0, 300.0, (4.0, 5.0)), keep=3) == Series(300.0, 300.0, (2.0, 4.0, 5.0))
    assert extend(known, Series(900.0, 300.0, (6.0,)), keep=10).values == (1.0, 2.0, 3.0, 6.0)


def test_series_with_a_hole_between_them_are_not_joined() -> None:
    newer = Series(1200.0, 300.0, (6.0,))

    assert extend(Series(0.0, 300.0, (1.0,)), newer, keep=10) == newer
    assert extend(None, newer, keep=10) == newer
