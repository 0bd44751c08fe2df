from __future__ import annotations

import pytest

from lull.core.simulation.engine import Request
from lull.core.simulation.traces import InvalidTrace, parse_trace

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
