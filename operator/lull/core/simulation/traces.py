"""Traces: a line for each request, in CSV, or made from the rates that somebody counted."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Final

from lull.core.simulation.chance import Chance
from lull.core.simulation.engine import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lull.core.forecast import Series

_NEEDED: Final = ("timestamp_s", "input_tokens", "output_tokens")
_CACHED: Final = "cached_tokens"
_EPOCH: Final = 1e8
"""Times from here on, in March 1973, are of a clock on the wall."""
_LONGEST: Final = 366 * 86400.0
_MOST_TOKENS: Final = 100_000_000
_TELLING: Final = 5.0
"""Requests in a step, from which their tokens tell an average."""
MOST_REQUESTS: Final = 20_000_000
"""That a trace is made of: some gigabytes."""


class InvalidTrace(ValueError):  # noqa: N818  reads as what it says of the file
    """Which line is wrong, and what to write."""


@dataclass(frozen=True, slots=True)
class Trace:
    requests: tuple[Request, ...]
    """In order of time, from 0 on."""
    begins: float | None
    """Seconds since the Unix epoch at which it is 0; None where the file has times of its own."""

    @property
    def seconds(self) -> float:
        return self.requests[-1].at

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.requests) / max(self.seconds, 1.0)


@dataclass(frozen=True, slots=True)
class Rates:
    """What was counted of an LLMDeployment, by the same steps: each a second."""

    requests: Series
    input_tokens: Series
    cached_tokens: Series
    output_tokens: Series


def make_trace(rates: Rates, *, seed: int) -> Trace:
    """Requests that could have been counted so: times by Poisson, lengths exponential about each step's average.

    Steps that nobody counted have none. Where a step counts tokens and hardly a request, lengths are as on the whole.
    """
    series, chance = rates.requests, Chance(seed)
    expected = sum(value or 0.0 for value in series.values) * series.step
    if not expected:
        raise InvalidTrace("no request was counted in that time")
    if expected > MOST_REQUESTS:
        raise InvalidTrace(f"about {expected:,.0f} requests were counted, and {MOST_REQUESTS:,} are the most")
    usual = [_average(one.values, series.values, 1.0) for one in (rates.input_tokens, rates.output_tokens)]
    cached = _average(rates.cached_tokens.values, rates.input_tokens.values, 0.0)
    requests = [
        Request(at, prompt := _draw(read, chance), _draw(written, chance), int(prompt * min(1.0, cached)))
        for begin, rate, read, written in _list_steps(rates, *usual)
        for at in _arrive(rate, begin, begin + series.step, chance)
    ]
    if not requests:
        raise InvalidTrace("hardly a request was counted in that time")
    return Trace(tuple(requests), series.begin)


def parse_trace(lines: Iterable[str]) -> Trace:
    """Read `timestamp_s,input_tokens,output_tokens` and, if there is one, `cached_tokens`; other columns are ignored."""
    rows = csv.reader(lines)
    try:
        header = [name.strip().lstrip("\ufeff").lower() for name in next(rows, [])]
        if missing := [name for name in _NEEDED if name not in header]:
            found = f"has {', '.join(header)}" if any(header) else "is empty"
            raise InvalidTrace(f"line 1 {found}: the columns must be named, {', '.join(missing)} is missing")
        places = [header.index(name) for name in _NEEDED]
        cached = header.index(_CACHED) if _CACHED in header else None
        requests = [_parse(row, rows.line_num, header, places, cached) for row in rows if any(row)]
    except csv.Error as error:
        raise InvalidTrace(f"line {rows.line_num}: {error}") from error
    if not requests:
        raise InvalidTrace("holds no requests")
    return _set_off(sorted(requests, key=lambda request: request.at))


def _parse(row: Sequence[str], line: int, header: Sequence[str], places: Sequence[int], cached: int | None) -> Request:
    if len(row) < len(header):
        raise InvalidTrace(f"line {line}: has {len(row)} fields, and there are {len(header)} columns")
    at, prompt, output = (row[place] for place in places)
    try:
        seconds = float(at)
    except ValueError:
        seconds = -1.0
    if not isfinite(seconds) or seconds < 0:
        raise InvalidTrace(f"line {line}: timestamp_s is {at!r}: write seconds, since any moment, as in 12.5")
    # An engine reads and writes a token at least, whatever was counted.
    return Request(
        seconds,
        max(1, _count(prompt, "input_tokens", line)),
        max(1, _count(output, "output_tokens", line)),
        0 if cached is None else _count(row[cached], _CACHED, line),
    )


def _count(text: str, column: str, line: int) -> int:
    try:
        count = int(text)
    except ValueError:
        # Tables of some programs write whole numbers as 12.0.
        try:
            whole = float(text)
        except ValueError:
            whole = -1.0
        count = int(whole) if isfinite(whole) and whole.is_integer() else -1
    if not 0 <= count <= _MOST_TOKENS:
        raise InvalidTrace(f"line {line}: {column} is {text!r}: write a whole number, from 0 to {_MOST_TOKENS}")
    return count


def _set_off(requests: Sequence[Request]) -> Trace:
    """Let time begin at 0."""
    first, last = requests[0].at, requests[-1].at
    if last - first > _LONGEST:
        days = (last - first) / 86400
        raise InvalidTrace(f"goes over {days:.0f} days, and 366 are the most: timestamp_s is in seconds")
    if first < _EPOCH:
        return Trace(tuple(requests), None)
    return Trace(tuple(request._replace(at=request.at - first) for request in requests), first)


def _list_steps(rates: Rates, usual_read: float, usual_written: float) -> Iterator[tuple[float, float, float, float]]:
    """When each begins, its requests a second, and their average lengths."""
    series = rates.requests
    columns = zip(series.values, rates.input_tokens.values, rates.output_tokens.values, strict=True)
    for number, (rate, read, written) in enumerate(columns):
        if rate:
            is_telling = rate * series.step >= _TELLING
            yield (
                number * series.step,
                rate,
                read / rate if read and is_telling else usual_read,
                written / rate if written and is_telling else usual_written,
            )


def _average(amounts: Sequence[float | None], counts: Sequence[float | None], default: float) -> float:
    count = sum(value or 0.0 for value in counts)
    return sum(value or 0.0 for value in amounts) / count if count and any(amounts) else default


def _arrive(rate: float, begin: float, end: float, chance: Chance) -> Iterator[float]:
    at = begin + chance.exponential(1 / rate)
    while at < end:
        yield at
        at += chance.exponential(1 / rate)


def _draw(mean: float, chance: Chance) -> int:
    return min(_MOST_TOKENS, max(1, round(chance.exponential(mean))))
