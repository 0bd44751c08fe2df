"""One trace, one cold start, all contenders: each as it comes, and each as cheap as it gets at equal attainment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from bench.autoscaling.aibrix import Apa
from bench.autoscaling.drawn import draw
from bench.autoscaling.hpa import Hpa, Keda, SloLoop
from bench.autoscaling.knative import Kpa
from bench.autoscaling.plans import Needed, Static, build_plan, count_needed, measure_work
from bench.autoscaling.traces import Load, list_loads
from lull.api.spec import LLMDeploymentSpec
from lull.core.simulation.fleet import Options, simulate
from lull.core.simulation.scalers import LullScaler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lull.core.simulation.fleet import Outcome, Request, Scaler, Slo
    from lull.core.simulation.foresight import Past

LULL: Final = "Lull"
STATIC: Final = "static"
CLAIRVOYANT: Final = "clairvoyant"
ATTAINMENT: Final = 0.99
SEED: Final = 1
_HALVINGS: Final = 5
_LONG: Final = 300.0
_PLANS: Final = ((90.0, False), (30.0, True), (_LONG, False))
"""Seconds of a plan's windows, and whether what comes late in one is served in the next."""
_PARTS: Final = 12
"""Of a plan, each of which is tried with a replica less."""
_BEGINNING: Final = 300.0
"""Seconds whose load says how many replicas there are when a trace begins, for everybody."""
_BEGINNING_FILL: Final = 0.7


@dataclass(frozen=True, slots=True)
class Family:
    """A contender, and what its users set: documented value first, then what else the sweep tries."""

    name: str
    build: Callable[[Load, float, int, int], Scaler]
    """For a target, and the fewest and most replicas."""
    targets: tuple[float, ...]
    least: int


FAMILIES: Final = (
    Family("HPA", lambda _, target, least, most: Hpa(target=target, least=least, most=most), (5, 1), 1),
    Family("KEDA", lambda _, target, least, most: Keda(target=target, least=least, most=most), (16, 8), 0),
    Family(
        "Knative KPA",
        lambda _, target, least, most: Kpa(target=target, least=least, most=most),
        (70, 8, 16),
        0,
    ),
    Family(
        "AIBrix APA",
        lambda _, target, least, most: Apa(target=target, least=least, most=most),
        (0.5, 0.7),
        1,
    ),
    Family(
        "llm-d SLO loop",
        lambda load, target, least, most: SloLoop(
            load.slo.ttft, load.slo.tpot, up=target, down=target * 0.40 / 0.55, least=least, most=most
        ),
        (0.55, 0.7),
        1,
    ),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table."""

    load: str
    cold_start: float
    contender: str
    setting: str
    is_swept: bool
    """Whether its setting was looked for, rather than documented."""
    attainment: float
    ttft_attainment: float
    tpot_attainment: float
    gpu_hours: float
    mean_replicas: float
    most_replicas: int
    starts: int
    longest_hold: float

    @property
    def holds(self) -> bool:
        return self.attainment >= ATTAINMENT


@dataclass(frozen=True, slots=True)
class Match:
    """What can be run on its own."""

    load: int
    cold_start: float
    fewest: int
    """Replicas that hold all the time."""
    is_quick: bool
    is_swept: bool


def play(match: Match) -> list[Entry]:
    """All contenders; the sweep takes most of the time."""
    load = list_loads(is_quick=match.is_quick)[match.load]
    arena = Arena(load, load.read(), match.cold_start, match.fewest)
    fewest = arena.find_static()
    entries = [arena.enter_peak(), fewest, arena.find_clairvoyant(fewest, is_quick=match.is_quick)]
    for family in FAMILIES:
        documented = arena.run_family(family, family.targets[0], family.least)
        entries.append(documented)
        if match.is_swept:
            entries += arena.sweep(family, documented)
    entries.append(arena.enter(LULL, "default", build_lull(load.most, slo=load.slo)))
    return [_bound(entry, entries) for entry in entries]


def play_drawn(seed: int) -> list[Entry]:
    """All contenders as documented, without the clairvoyant, on a load that nobody has looked at."""
    drawn = draw(seed)
    load, requests = drawn.load, drawn.load.read()
    arena = Arena(load, requests, drawn.cold_start, _count_fewest(load, requests))
    others = [arena.run_family(family, family.targets[0], family.least) for family in FAMILIES]
    lull = arena.enter(LULL, "default", build_lull(load.most, slo=load.slo))
    return [arena.enter_peak(), arena.find_static(), *others, lull]


def build_lull(most: int, *, slo: Slo, past: Past | None = None, **scaling: Any) -> Scaler:
    """Lull with its defaults, whatever the trace; what is asked of it is the SLO and the bounds."""
    spec = LLMDeploymentSpec.model_validate(
        {
            "model": {"source": "hf://Qwen/Qwen3-0.6B"},
            "slo": {"timeToFirstToken": f"{slo.ttft:g}s", "timePerOutputToken": f"{slo.tpot:g}s"},
            "scaling": {"maxReplicas": most, **scaling},
        }
    )
    return LullScaler(spec, past=past)


class Arena:
    """A trace and a cold start."""

    def __init__(self, load: Load, requests: Sequence[Request], cold_start: float, fewest: int) -> None:
        self._load = load
        self._requests = requests
        self._cold_start = cold_start
        self._beginning = ceil(measure_work(load, requests, _BEGINNING)[0] / _BEGINNING_FILL)
        self._fewest = fewest

    def enter(self, contender: str, setting: str, scaler: Scaler, *, is_swept: bool = False) -> Entry:
        outcome = self._run(scaler)
        return Entry(
            self._load.name,
            self._cold_start,
            contender,
            setting,
            is_swept,
            outcome.attainment,
            outcome.ttft_attainment,
            outcome.tpot_attainment,
            outcome.gpu_hours,
            outcome.mean_replicas,
            outcome.most_replicas,
            outcome.starts,
            outcome.longest_hold,
        )

    def run_family(self, family: Family, target: float, least: int, *, is_swept: bool = False) -> Entry:
        scaler = family.build(self._load, target, least, self._load.most)
        return self.enter(family.name, f"{target:g}, min {least}", scaler, is_swept=is_swept)

    def enter_peak(self) -> Entry:
        """As many replicas all the time as the busiest stretch needs, as long as a request may wait."""
        work = measure_work(self._load, self._requests, self._load.slo.ttft)
        replicas = min(max(ceil(max(work)), self._fewest), self._load.most)
        return self.enter(STATIC, f"{replicas}", Static(replicas))

    def find_static(self) -> Entry:
        """The fewest replicas that hold all the time."""
        return self.enter(STATIC, f"{self._fewest}", Static(self._fewest), is_swept=True)

    def find_clairvoyant(self, fewest: Entry, *, is_quick: bool) -> Entry:
        """The cheapest plan that is found to hold; at worst it never scales.

        The fuller replicas are planned, the cheaper. Of the best such plan, parts are taken away that it can do without.
        """
        until = self._requests[-1].at
        best = replace(fewest, contender=CLAIRVOYANT, is_swept=False)
        plan = Needed(_LONG, (self._fewest,) * ceil((until + 1) / _LONG))
        for window, late in _PLANS[1:] if is_quick else _PLANS:
            busy = measure_work(self._load, self._requests, window)
            low, high = 0.5, 1.6
            for _ in range(_HALVINGS):
                fill = (low + high) / 2
                counts = count_needed(busy, fill=fill, most=self._load.most, is_late=late)
                entry = self._enter_plan(Needed(window, tuple(counts)))
                if entry.holds:
                    low = fill
                    if entry.gpu_hours < best.gpu_hours:
                        best, plan = entry, Needed(window, tuple(counts))
                else:
                    high = fill
        return self._shave(best, plan)

    def _shave(self, best: Entry, plan: Needed) -> Entry:
        for part in range(_PARTS):
            less = plan.take_away(part, of=_PARTS)
            entry = self._enter_plan(less)
            if entry.holds and entry.gpu_hours < best.gpu_hours:
                best, plan = entry, less
        return best

    def _enter_plan(self, plan: Needed) -> Entry:
        return self.enter(CLAIRVOYANT, f"by {plan.window:g} s", build_plan(plan, cold_start=self._cold_start))

    def sweep(self, family: Family, documented: Entry) -> Iterator[Entry]:
        """Its cheapest setting that holds; nothing where none does."""
        best = documented if documented.holds else None
        for target in family.targets:
            low, high = family.least - 1, self._fewest + 1
            # More replicas at least cost more and hold better.
            while high - low > 1:
                least = low + 1 if low < family.least else (low + high) // 2
                if best is not None and self._cost(least) >= best.gpu_hours:
                    high = least
                    continue
                entry = self.run_family(family, target, least, is_swept=True)
                if best is not None and entry.gpu_hours >= best.gpu_hours:
                    high = least
                elif entry.holds:
                    best, high = entry, least
                else:
                    low = least
        if best is not None and best is not documented:
            yield best

    def _cost(self, replicas: int) -> float:
        """GPU-hours of so many all the time."""
        return replicas * self._load.gpus * self._requests[-1].at / 3600

    def _run(self, scaler: Scaler) -> Outcome:
        return run(self._load, self._requests, scaler, cold_start=self._cold_start, replicas=self._beginning)


def _bound(entry: Entry, entries: Sequence[Entry]) -> Entry:
    """Who knows everything can do as anybody else does."""
    if entry.contender != CLAIRVOYANT:
        return entry
    best = min((one for one in entries if one.holds), key=lambda one: one.gpu_hours, default=entry)
    return (
        entry if best is entry else replace(best, contender=CLAIRVOYANT, setting=f"as {best.contender}", is_swept=False)
    )


def find_fewest(number: int, *, is_quick: bool) -> int:
    """Of a load, the fewest replicas that hold all the time."""
    load = list_loads(is_quick=is_quick)[number]
    return _count_fewest(load, load.read())


def _count_fewest(load: Load, requests: Sequence[Request]) -> int:
    low, high = 0, load.most
    while high - low > 1:
        middle = (low + high) // 2
        outcome = run(load, requests, Static(middle), cold_start=0, replicas=middle)
        low, high = (low, middle) if outcome.attainment >= ATTAINMENT else (middle, high)
    return high


def run(load: Load, requests: Sequence[Request], scaler: Scaler, *, cold_start: float, replicas: int) -> Outcome:
    """Play once. Nobody's first minutes are a cold start: that would be most of what is missed."""
    options = Options(
        cold_start=cold_start,
        slo=load.slo,
        max_replicas=load.most,
        initial_replicas=scaler.replicas if isinstance(scaler, Static) else replicas,
        gpus_per_replica=load.gpus,
        until=requests[-1].at,
    )
    return simulate(requests, scaler, load.replica, options, SEED)
