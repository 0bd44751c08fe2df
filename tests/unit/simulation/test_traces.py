from __future__ import annotations

import pytest

from lull.core.forecast import Series
from lull.core.simulation.engine import Request
from lull.core.simulation.fleet import MONDAY
from lull.core.simulation.traces import InvalidTrace, Rates, make_trace, parse_trace

HEAD = "timestamp_s,input_tokens,output_tokens"


def test_reads_columns_by_name_in_any_order_and_ignores_others() -> None:
    trace = parse_trace(["user,output_tokens, cached_tokens,Input_Tokens,timestamp_s", "x,5,3,7,1.5"])

    assert trace.requests == (Request(1.5, 7, 5, 3),)
    assert trace.begins is None


def test_sorts_by_time_and_leaves_out_empty_lines() -> None:
    trace = parse_trace([HEAD, "2,1,1", "", "1,2,2", "1,3,3"])

    assert [(request.at, request.input_tokens) for request in trace.requests] == [(1, 2), (1, 3), (2, 1)]


def test_takes_times_of_a_wall_clock_for_schedules() -> None:
    trace = parse_trace([HEAD, "1767571260.5,1,1", "1767571200,1,1"])

    assert [request.at for request in trace.requests] == [0.0, 60.5]
    assert trace.begins == 1767571200


def test_an_engine_reads_and_writes_a_token_at_least() -> None:
    assert parse_trace([HEAD, "0,0,0", "1,12.0,3.0"]).requests == (Request(0, 1, 1), Request(1, 12, 3))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "line 1 is empty: the columns must be named, timestamp_s, input_tokens, output_tokens is missing"),
        (["a,b"], "line 1 has a, b: "),
        ([HEAD], "holds no requests"),
        ([HEAD, "0,1,1", "1,2"], "line 3: has 2 fields, and there are 3 columns"),
        ([HEAD, "0,1,1", "", "x,2,3"], "line 4: timestamp_s is 'x': write seconds, since any moment, as in 12.5"),
        ([HEAD, "nan,1,1"], "line 2: timestamp_s is 'nan'"),
        ([HEAD, "-1,1,1"], "line 2: timestamp_s is '-1'"),
        ([HEAD, "0,many,1"], "line 2: input_tokens is 'many': write a whole number"),
        ([HEAD, "0,1,1.5"], "line 2: output_tokens is '1.5'"),
        ([HEAD, "0,1,-2"], "line 2: output_tokens is '-2'"),
        ([HEAD, "0,1,9999999999"], "line 2: output_tokens is '9999999999'"),
        ([HEAD, "0,1,inf"], "line 2: output_tokens is 'inf'"),
        ([HEAD + ",cached_tokens", "0,1,1,x"], "line 2: cached_tokens is 'x'"),
        ([HEAD, "0,1,1", "100000000,1,1"], "goes over 1157 days, and 366 are the most: timestamp_s is in seconds"),
    ],
)
def test_says_which_line_is_wrong_and_what_to_write(lines: list[str], said: str) -> None:
    with pytest.raises(InvalidTrace) as caught:
        parse_trace(lines)

    assert said in str(caught.value)


def rates(**columns: tuple[float | None, ...]) -> Rates:
    count = len(columns["requests"])
    names = ("requests", "input_tokens", "cached_tokens", "output_tokens")
    return Rates(**{name: Series(MONDAY, 600.0, columns.get(name, (None,) * count)) for name in names})


def test_makes_requests_that_could_have_been_counted_so() -> None:
    counted = rates(
        requests=(2.0, None, 0.0, 4.0),
        input_tokens=(2000.0, None, 0.0, 800.0),
        output_tokens=(200.0, None, 0.0, 1200.0),
        cached_tokens=(1000.0, None, 0.0, 400.0),
    )

    trace = make_trace(counted, seed=3)

    first, last = ([one for one in trace.requests if low <= one.at < low + 600] for low in (0, 1800))
    assert len(first) + len(last) == len(trace.requests), "none where nobody counted, or there was none"
    assert trace.begins == MONDAY
    assert [one.at for one in trace.requests] == sorted(one.at for one in trace.requests)
    for requests, rate, read, written in ((first, 2, 1000, 100), (last, 4, 200, 300)):
        count = len(requests)
        assert count == pytest.approx(600 * rate, rel=0.1)
        assert sum(one.input_tokens for one in requests) / count == pytest.approx(read, rel=0.1)
        assert sum(one.output_tokens for one in requests) / count == pytest.approx(written, rel=0.1)
        assert sum(one.cached_tokens for one in requests) / count == pytest.approx(read / 2, rel=0.1)


def test_a_seed_makes_the_same_requests_again() -> None:
    counted = rates(requests=(1.0, 0.5), input_tokens=(900.0, 300.0), output_tokens=(90.0, 30.0))

    assert make_trace(counted, seed=1) == make_trace(counted, seed=1)
    assert make_trace(counted, seed=1) != make_trace(counted, seed=2)


def test_tokens_that_nobody_counted_are_as_on_the_whole() -> None:
    counted = rates(requests=(1.0, 1.0), input_tokens=(500.0, None), output_tokens=(50.0, None))

    later = [one for one in make_trace(counted, seed=1).requests if one.at >= 600]

    assert sum(one.input_tokens for one in later) / len(later) == pytest.approx(250, rel=0.15)
    assert {one.cached_tokens for one in later} == {0}


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        ((None, 0.0), "no request was counted in that time"),
        ((1e-12, 0.0), "hardly a request was counted in that time"),
        ((1e6, 0.0), "about 600,000,000 requests were counted, and 20,000,000 are the most"),
    ],
)
def test_rates_of_nothing_or_too_much_are_no_trace(counted: tuple[float | None, ...], said: str) -> None:
    with pytest.raises(InvalidTrace, match=said):
        make_trace(rates(requests=counted), seed=0)
