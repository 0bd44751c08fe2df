"""What engines have to do that did not come through a gateway, and what they say of their queues and caches.

Gateways and engines are not heard at the same moment, and what they count is not the same: a request is one to its
gateway, and several to its engine where it has `n` or a list of inputs. So a surplus at the engines counts

- whole, while gateways have nothing at the engines;
- else as far as engines have answered more requests, of late, than gateways have had: that is what tells requests that
  came past a gateway from those that are several;
- and as the least of two looks, so that what merely ended in between is no surplus.

What engines have answered beyond what gateways have had counts with the gateways' requests wherever replicas are
counted by what they carry: as so many more that arrived and were finished.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from lull.core.signals import find_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from lull.core.enginemetrics import EngineSample
    from lull.core.signals import Demand, Service

KEPT_SECONDS: Final = 90.0
KEPT_LOOKS: Final = 100

_LOOKS: Final = 2
"""A surplus that fewer show is none."""
_STUCK: Final = 60.0
"""An engine that has moved no token for so long does nothing, whatever its gauges say: it sleeps, or hangs."""
_LAG: Final = 10.0
"""So long after a gateway's last request its engine may still finish it."""
_SLACK: Final = 3
"""Requests that engines have answered and that gateways have not counted yet."""
_SLACK_SHARE: Final = 0.1
_SHORTEST: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Look:
    """The engines of one LLMDeployment, asked at about the same time."""

    at: float
    engines: Mapping[str, EngineSample]
    """Those that answered, by process."""
    in_flight: int
    """The most that gateways had at them meanwhile."""
    gateways: Demand | None
    """What gateways said at the end."""
    began: float | None = None
    """When the first look of an unbroken row of looks was; None where this one is."""
    beyond: float = 0.0
    """Requests that engines have answered since then, and no gateway had."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What looks tell."""

    since: float
    """When the first of those that had to agree was."""
    surplus: int
    """Requests at engines, and at no gateway."""
    last_request_at: float | None
    """Of those that came past the gateways."""
    queued: int | None
    """At the engines that work; None where none does."""
    usages: tuple[float, ...]
    """Of the caches of those that say it."""
    began: float = 0.0
    """When the row of looks began."""
    at: float = 0.0
    """When the last of them was."""
    beyond: tuple[float, float] = (0.0, 0.0)
    """Requests past the gateways, ended by the last look but one and by the last one."""


def remember(looks: Sequence[Look], look: Look, *, span: float = KEPT_SECONDS) -> tuple[Look, ...]:
    """The looks of the last while, oldest first."""
    kept = tuple(one for one in looks if look.at - one.at <= span)
    if kept:
        look = replace(look, began=_find_beginning(kept[-1]), beyond=kept[-1].beyond + _count_beyond((*kept, look)))
    return (*kept, look)[-KEPT_LOOKS:]


def _find_beginning(look: Look) -> float:
    return look.at if look.began is None else look.began


def _count_beyond(looks: Sequence[Look]) -> float:
    """Requests that engines have answered since the last look but one, by the part of late that no gateway had."""
    before, after = looks[-2:]
    return _find_share(looks) * _count_growth(before, after, lambda engine: engine.answered)


def assess(looks: Sequence[Look]) -> Finding | None:
    """What the last looks tell together; None before there are enough of them."""
    if len(looks) < _LOOKS:
        return None
    stuck, share = _find_stuck(looks), _find_share(looks)
    working = [one for process, one in looks[-1].engines.items() if not one.is_asleep and process not in stuck]
    return Finding(
        since=looks[-_LOOKS].at,
        surplus=min(_count_surplus(look, share, stuck) for look in looks[-_LOOKS:]),
        last_request_at=_find_last(looks),
        queued=sum(one.waiting for one in working) if working else None,
        usages=tuple(one.kv_usage for one in working if one.kv_usage is not None),
        began=_find_beginning(looks[-1]),
        at=looks[-1].at,
        beyond=(looks[-2].beyond, looks[-1].beyond),
    )


def merge_engines(
    demand: Demand | None, finding: Finding | None, *, ready: int, now: float, stale_after: float
) -> Demand | None:
    """Demand with what engines say of it; engines that are silent add nothing.

    While ready engines have not been asked twice, somebody may ask them for something: then demand is not complete.
    """
    if demand is None or not ready:
        return demand
    if finding is None or now - finding.since > stale_after:
        return replace(demand, complete=False)
    last = find_latest(demand.last_request_at, finding.last_request_at)
    service = demand.service
    if service is not None and finding.queued is not None:
        service = replace(service, queued=finding.queued)
    if service is not None and finding.usages and len(finding.usages) * 2 >= ready:
        # Fewer than half of them say little of the others.
        service = replace(service, kv_usage=sum(finding.usages) / len(finding.usages))
    service = None if service is None else _add_beyond(service, finding, now)
    return replace(demand, waiting=demand.waiting + finding.surplus, last_request_at=last, service=service)


def _add_beyond(service: Service, finding: Finding, now: float) -> Service:
    """Count what came past the gateways as well, evenly over the time until the next look."""
    before, after = finding.beyond
    if not after:
        return service
    passed = min(1.0, max(0.0, now - finding.at) / max(finding.at - finding.since, _SHORTEST))
    beyond = int(before + (after - before) * passed)
    # Another row of looks counts from nothing.
    epoch = f"{service.epoch} {finding.began}"
    return replace(service, arrived=service.arrived + beyond, finished=service.finished + beyond, epoch=epoch)


def _count_surplus(look: Look, share: float, stuck: Collection[str]) -> int:
    if look.gateways is None or not look.gateways.complete:
        # Whoever was not heard may have sent all of it.
        return 0
    load = sum(one.load for process, one in look.engines.items() if process not in stuck)
    if not look.in_flight:
        return load
    return max(0, min(load - look.in_flight, int(load * share)))


def _find_share(looks: Sequence[Look]) -> float:
    """Of the requests that engines answered lately, the part that no gateway had."""
    answered = passed = 0
    for before, after in pairwise(looks):
        one, other = _service(before), _service(after)
        if one is None or other is None or one.epoch != other.epoch:
            continue
        answered += _count_growth(before, after, lambda engine: engine.answered)
        # The more cautious count: what arrived may not be finished yet, and what finished has arrived before.
        passed += max(other.arrived - one.arrived, other.finished - one.finished, 0)
    beyond = answered - passed * (1 + _SLACK_SHARE) - _SLACK
    return beyond / answered if beyond > 0 else 0.0


def _service(look: Look) -> Service | None:
    return look.gateways.service if look.gateways is not None and look.gateways.complete else None


def _find_last(looks: Sequence[Look]) -> float | None:
    """When engines last finished something while no gateway had anything to do with it."""
    return max(
        (
            after.at
            for before, after in pairwise(looks)
            if _is_quiet(before, after) and _count_growth(before, after, lambda engine: engine.finished) > 0
        ),
        default=None,
    )


def _is_quiet(before: Look, after: Look) -> bool:
    gateways = after.gateways
    if before.in_flight or after.in_flight or gateways is None or not gateways.complete:
        return False
    return gateways.last_request_at is None or gateways.last_request_at <= before.at - _LAG


def _count_growth(before: Look, after: Look, find: Callable[[EngineSample], int | None]) -> int:
    """How far a counter went, over the engines that both looks know."""
    grown = 0
    for process, engine in after.engines.items():
        earlier = before.engines.get(process)
        began, came = None if earlier is None else find(earlier), find(engine)
        if began is not None and came is not None:
            # One that is lower began anew.
            grown += came - began if came >= began else came
    return grown


def _find_stuck(looks: Sequence[Look]) -> frozenset[str]:
    """Engines that have requests and do not work on them."""
    newest = looks[-1]
    return frozenset(
        process
        for process, engine in newest.engines.items()
        if engine.tokens is not None and engine.load and newest.at - _stands_since(looks, process) >= _STUCK
    )


def _stands_since(looks: Sequence[Look], process: str) -> float:
    """Since when an engine's tokens have been what they are."""
    newest = looks[-1]
    since = newest.at
    for look in reversed(looks):
        earlier = look.engines.get(process)
        if earlier is None:
            continue
        if earlier.tokens != newest.engines[process].tokens or not earlier.load:
            break
        since = look.at
    return since
