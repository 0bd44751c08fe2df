"""The contenders against each other, case by case."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench.claims import Claim
from bench.gateway.contenders import DIRECT, LULL, ROUTER_POLICIES
from bench.gateway.generator import Reading, ask
from e2e.progress import say, step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bench.gateway.contenders import Contender

CONNECTIONS: Final = (1, 16, 256)
STREAMS: Final = (256, 1000)
TOKENS_A_SECOND: Final = 50
BURSTS: Final = (1, 4)
"""Events that the mock engine writes at a time where nothing paces it."""

_LEAST_ADDED: Final = 0.001
"""Milliseconds: less cannot be told from nothing."""


@dataclass(frozen=True)
class Table:
    """What the rounds of one case said of each contender."""

    case: str
    rows: Mapping[str, list[Reading]] = field(default_factory=dict)

    def median(self, name: str, read: Callable[[Reading], float]) -> float:
        """Of one contender, over the rounds."""
        return statistics.median(map(read, self.rows[name]))

    def best(self, read: Callable[[Reading], float]) -> float:
        """The most that one of vllm-router's policies reached."""
        return max(self.median(policy, read) for policy in ROUTER_POLICIES)

    def added(self, name: str, read: Callable[[Reading], float]) -> float:
        """Milliseconds on top of what it takes without a gateway."""
        return self.median(name, read) - self.median(DIRECT, read)

    def least_added(self, read: Callable[[Reading], float]) -> float:
        """The least that one of vllm-router's policies added."""
        return max(_LEAST_ADDED, min(self.added(policy, read) for policy in ROUTER_POLICIES))

    @property
    def rounds(self) -> int:
        return len(self.rows[LULL])

    def show(self) -> None:
        """The medians, as progress."""
        for name, readings in self.rows.items():
            errors = sum((Counter(reading.errors) for reading in readings), Counter[str]())
            say(
                f"    {name:12} {self.median(name, _requests):9,.0f} requests/s {self.median(name, _events):9,.0f} events/s"
                f"  p50 {self.median(name, _p50):8.3f}  p99 {self.median(name, _p99):8.3f} ms"
                f"  CPU {self.median(name, _cpu_per_request):7.1f} µs a request"
                f" {self.median(name, _cpu_per_event):6.2f} µs an event  {dict(errors) or ''}"
            )


def compare(load: str, contenders: Sequence[Contender], *, rounds: int, seconds: float) -> list[Claim]:
    """Let the contenders take turns in each case."""
    claims: list[Claim] = []
    for connections in CONNECTIONS:
        # Where connections come faster than a contender takes them on, some are tried again a second later, and those
        # that are in share the core among fewer meanwhile.
        options = {"connections": connections, "warm": 3, "ramp": 1, "seconds": seconds}
        table = _run(load, contenders, f"{connections} connections", options, rounds)
        claims += _judge_requests(table, saturated=connections > 1)
    for burst in BURSTS:
        options = {"connections": 32, "tokens": 200, "burst": burst, "warm": 0.3, "seconds": seconds}
        table = _run(load, contenders, f"events written {burst} at a time", options, max(3, rounds // 2))
        claims += _judge_events(table, burst)
    for streams in STREAMS:
        options = {
            "connections": streams,
            "tokens": 100,
            "rate": TOKENS_A_SECOND,
            "ramp": 2,
            "warm": 3,
            "seconds": 2 * seconds,
        }
        subject = f"{streams:,} streams of {TOKENS_A_SECOND} tokens/s"
        claims += _judge_streams(_run(load, contenders, subject, options, max(3, rounds // 2)))
    return claims


def _run(load: str, contenders: Sequence[Contender], case: str, options: Mapping[str, float], rounds: int) -> Table:
    table = Table(case, {contender.name: [] for contender in contenders})
    with step(case):
        for number in range(rounds):
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                table.rows[contender.name].append(ask(load, contender, options))
    table.show()
    return table


def _judge_requests(table: Table, *, saturated: bool) -> Iterator[Claim]:
    if saturated:
        yield from _report(table, "requests/s", "", _requests)
        ratio = table.median(LULL, _requests) / table.best(_requests)
        yield Claim(f"{table.case}: requests/s, Lull / vllm-router", ratio, 1.0, "x", table.rounds, at_least=True)
    for name, read in (("p50", _p50), ("p99", _p99)):
        for contender in (*ROUTER_POLICIES, LULL):
            yield Claim(
                f"{table.case}: added {name}, {_label(contender)}",
                table.added(contender, read),
                None,
                "ms",
                table.rounds,
            )
        ratio = table.added(LULL, read) / table.least_added(read)
        yield Claim(f"{table.case}: added {name}, Lull / vllm-router", ratio, 1.0, "x", table.rounds)
    yield from _report(table, "CPU per request", "µs", _cpu_per_request)
    yield _count_errors(table)


def _judge_events(table: Table, burst: int) -> Iterator[Claim]:
    yield from _report(table, "SSE events/s", "", _events)
    ratio = table.median(LULL, _events) / table.best(_events)
    # One write for each event keeps the engine's core busier than the gateway's, so that is no race between gateways.
    limit = 2.0 if burst > 1 else None
    yield Claim(f"{table.case}: SSE events/s, Lull / vllm-router", ratio, limit, "x", table.rounds, at_least=True)
    yield from _report(table, "CPU per event", "µs", _cpu_per_event)
    yield _count_errors(table)


def _judge_streams(table: Table) -> Iterator[Claim]:
    direct = table.median(DIRECT, _events)
    for name in (*ROUTER_POLICIES, LULL):
        lost = (1 - table.median(name, _events) / direct) * 100
        limit = 2.0 if name == LULL else None
        yield Claim(f"{table.case}: tokens/s lost, {_label(name)}", lost, limit, "%", table.rounds)
    yield from _report(table, "time between events, p99", "ms", lambda reading: reading.gap)
    yield from _report(table, "CPU per event", "µs", _cpu_per_event)
    yield _count_errors(table)


def _report(table: Table, what: str, unit: str, read: Callable[[Reading], float]) -> Iterator[Claim]:
    for name in table.rows:
        yield Claim(f"{table.case}: {what}, {_label(name)}", table.median(name, read), None, unit, table.rounds)


def _count_errors(table: Table) -> Claim:
    errors = sum(sum(reading.errors.values()) for reading in table.rows[LULL])
    return Claim(f"{table.case}: errors, Lull", errors, 0, "", table.rounds)


def _label(name: str) -> str:
    return {DIRECT: "the mock engine itself", LULL: "Lull"}.get(name, f"vllm-router {name}")


def _requests(reading: Reading) -> float:
    return reading.requests


def _events(reading: Reading) -> float:
    return reading.events


def _p50(reading: Reading) -> float:
    return reading.p50


def _p99(reading: Reading) -> float:
    return reading.p99


def _cpu_per_request(reading: Reading) -> float:
    return reading.cpu_per_request


def _cpu_per_event(reading: Reading) -> float:
    return reading.cpu_per_event
