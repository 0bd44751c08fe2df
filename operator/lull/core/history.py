"""What Prometheus is asked about an LLMDeployment's past, and how its answers are read.

Where Prometheus names its targets' namespace itself, it calls that of the gateway's samples `exported_namespace`; both
spellings are asked for. A gateway that was scraped and says nothing of a model has had no request for it, which is not
the same as a time at which nobody scraped.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from lull.core.forecast import Series

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lull.api.llmdeployment import Key

_LOAD: Final = 'code=~"2..|429|499|5.."'
"""What engines had to do, or should have: neither what was wrong, nor what nobody may ask for."""
_SCRAPED: Final = "0 * sum(lull_gateway_limits_shared)"


class Unreadable(ValueError):  # noqa: N818  reads as what the answer is
    """No answer of Prometheus."""


@dataclass(frozen=True, slots=True)
class Span:
    """Steps of equal length, from and to times that are whole numbers of them."""

    begin: float
    end: float
    step: float

    @property
    def count(self) -> int:
        return round((self.end - self.begin) / self.step)


def find_span(end: float, *, days: float, step: float) -> Span:
    """Whole days up to the last step that is over."""
    last = end // step * step
    return Span(last - round(days * 86400 / step) * step, last, step)


def ask_arrivals(key: Key, *, step: float) -> str:
    """Requests a second."""
    return f"{_sum(key, 'lull_gateway_requests_total', step, only=_LOAD)} or {_SCRAPED}"


def ask_tokens(key: Key, kind: str, *, step: float) -> str:
    """Tokens a second: input, cached or output."""
    return f"{_sum(key, f'lull_gateway_{kind}_tokens_total', step)} or {_SCRAPED}"


def ask_seconds(key: Key) -> str:
    """Seconds that a request spent with an engine, on average of the last day."""
    total, held, count = (
        _sum(key, f"lull_gateway_{name}", 86400)
        for name in ("request_seconds_sum", "hold_seconds_sum", "request_seconds_count")
    )
    return f"(({total}) - (({held}) or vector(0))) / ({count})"


def parse_matrix(answer: object, span: Span) -> Series:
    """A series by steps from the answer to a range query; what is missing is None.

    The sample of a moment is about the step that ends there.
    """
    values: list[float | None] = [None] * span.count
    for at, value in _parse_rows(answer):
        number = round((at - span.begin) / span.step) - 1
        if 0 <= number < span.count and isfinite(value):
            values[number] = max(0.0, value)
    return Series(span.begin, span.step, tuple(values))


def parse_value(answer: object) -> float | None:
    """The answer to a query for one number; None where there is none."""
    match answer:
        case []:
            return None
        case [{"value": [_, str(text)]}]:
            value = _parse_number(text)
            return value if isfinite(value) else None
    raise Unreadable("not one number")


def extend(series: Series | None, newer: Series, *, keep: int) -> Series:
    """A series with what was heard later in place of what it had, and at most so many steps of it."""
    if series is None or series.step != newer.step or not series.begin <= newer.begin <= series.end:
        return newer
    values = series.values[: round((newer.begin - series.begin) / series.step)] + newer.values
    return Series(newer.end - series.step * len(values[-keep:]), series.step, values[-keep:])


def _sum(key: Key, metric: str, seconds: float, *, only: str = "") -> str:
    labels = f'name="{key.name}"' + (f",{only}" if only else "")
    both = (f'exported_namespace="{key.namespace}"', f'namespace="{key.namespace}",exported_namespace=""')
    return " or ".join(f"sum(rate({metric}{{{namespace},{labels}}}[{seconds:.0f}s]))" for namespace in both)


def _parse_rows(answer: object) -> Iterable[tuple[float, float]]:
    match answer:
        case []:
            return
        case [{"values": list(rows)}]:
            for row in rows:
                yield _parse_row(row)
        case _:
            raise Unreadable("not one series")


def _parse_row(row: Any) -> tuple[float, float]:  # noqa: ANN401  whatever stood in JSON
    match row:
        case [int() | float() as at, str(text)]:
            return at, _parse_number(text)
    raise Unreadable("a sample is no pair of time and text")


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise Unreadable("a value is no number") from error
