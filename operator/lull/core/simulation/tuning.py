"""The cheapest policy that meets an SLO: a search over the policy's own fields, with an end.

First a sweep: for few and for many replicas that are always kept, the highest `inFlight` that meets the SLO is found by
halving, as more of it is cheaper and slower. Then a climb: from the best so far each field moves a rung or two of its
ladder, or two of them in opposite senses, for as long as something is better. What meets the SLO for fewer
replica-hours is better, and while nothing meets it, what meets it more often.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from lull.core.scaling import build_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lull.api.spec import LLMDeploymentSpec
    from lull.core.simulation.outcome import Outcome

_REPLICAS: Final = (*range(17), 18, 20, 22, 24, 28, 32, 40, 48, 64)
_SWEPT: Final = (0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64)
_IN_FLIGHT: Final = (
    *range(1, 11),
    12,
    14,
    16,
    20,
    24,
    28,
    32,
    40,
    48,
    56,
    64,
    80,
    96,
    128,
    160,
    192,
    256,
    320,
    384,
    512,
)
_WINDOWS: Final = (0, 30, 60, 120, 180, 300, 450, 600, 900, 1800, 3600)
_REACH: Final = (1, -1, 2, -2)


@dataclass(frozen=True, slots=True)
class Choice:
    """The fields that are searched, of `spec.scaling`; None where the spec leaves one to Lull."""

    in_flight: int | None
    """Of `target`."""
    min_replicas: int
    window: int | None
    """`behavior.scaleDown.stabilizationWindowSeconds`."""

    def apply(self, spec: LLMDeploymentSpec) -> LLMDeploymentSpec:
        """The same spec with these values."""
        scaling = spec.scaling
        down = scaling.behavior.scale_down.model_copy(update={"stabilization_window_seconds": self.window})
        changed = scaling.model_copy(
            update={
                "min_replicas": self.min_replicas,
                "target": scaling.target.model_copy(update={"in_flight": self.in_flight}),
                "behavior": scaling.behavior.model_copy(update={"scale_down": down}),
            }
        )
        return spec.model_copy(update={"scaling": changed})


@dataclass(frozen=True, slots=True)
class Trial:
    choice: Choice
    outcome: Outcome
    is_met: bool
    """Whether enough requests met the SLO."""
    is_best: bool
    """Of all trials up to this one."""


def tune(
    spec: LLMDeploymentSpec, evaluate: Callable[[LLMDeploymentSpec], Outcome], *, attainment: float, most: int
) -> Iterator[Trial]:
    """Try at most so many policies, the given one first; the last one that is best is the answer."""
    search = _Search(spec, evaluate, attainment, most)
    given = read_choice(spec)
    yield from search.attempt(given)
    yield from search.attempt(replace(given, in_flight=None))
    yield from search.sweep(given)
    yield from search.climb()


def read_choice(spec: LLMDeploymentSpec) -> Choice:
    """What a spec says of the fields."""
    scaling = spec.scaling
    return Choice(
        scaling.target.in_flight, scaling.min_replicas, scaling.behavior.scale_down.stabilization_window_seconds
    )


@dataclass(slots=True)
class _Search:
    spec: LLMDeploymentSpec
    evaluate: Callable[[LLMDeploymentSpec], Outcome]
    attainment: float
    most: int
    trials: dict[Choice, Trial] = field(default_factory=dict)
    best: Trial | None = None

    @property
    def is_over(self) -> bool:
        return len(self.trials) >= self.most

    def attempt(self, choice: Choice) -> Iterator[Trial]:
        """Try a choice, if it was not and there is time."""
        if choice in self.trials or self.is_over:
            return
        outcome = self.evaluate(choice.apply(self.spec))
        is_met, best = outcome.attainment >= self.attainment, self.best
        is_best = best is None or _rank(outcome, is_met) > _rank(best.outcome, best.is_met)
        trial = self.trials[choice] = Trial(choice, outcome, is_met, is_best)
        if is_best:
            self.best = trial
        yield trial

    def sweep(self, given: Choice) -> Iterator[Trial]:
        """For each number of replicas that are kept, look for the most that they may carry."""
        least, known = 0, None
        for replicas in _SWEPT:
            if replicas > self.spec.scaling.max_replicas or self._is_dear(replicas):
                return
            probe = replace(given, min_replicas=replicas)
            yield from self.attempt(probe)
            if self.is_over:
                return
            before, known = known, self.trials[probe].outcome
            if known == before:
                # There were never fewer anyway.
                continue
            low, high = least - 1, len(_IN_FLIGHT)
            while high - low > 1 and not self.is_over:
                middle = (low + high) // 2
                choice = replace(given, in_flight=_IN_FLIGHT[middle], min_replicas=replicas)
                yield from self.attempt(choice)
                low, high = (middle, high) if self.trials[choice].is_met else (low, middle)
            # More replicas let each carry as much at least.
            least = max(least, low)

    def climb(self) -> Iterator[Trial]:
        """Look around the best, and around what is better, until nothing is."""
        while True:
            before = self.best
            assert before is not None  # the given policy was tried
            for choice in _list_around(before, self.spec):
                yield from self.attempt(choice)
                if self.best is not before:
                    break
            else:
                return

    def _is_dear(self, replicas: int) -> bool:
        """Whether so many replicas cost more than the best even if there are never more."""
        best = self.best
        return best is not None and best.is_met and replicas * best.outcome.seconds / 3600 > best.outcome.replica_hours


def _rank(outcome: Outcome, is_met: bool) -> tuple[bool, float, float]:
    cost = -outcome.replica_hours
    return (True, cost, outcome.attainment) if is_met else (False, outcome.attainment, cost)


def _list_around(trial: Trial, spec: LLMDeploymentSpec) -> Iterator[Choice]:
    """Neighbours: first those on the way to what is lacking, SLO or thrift."""
    choice, policy = trial.choice, build_policy(spec)
    sign = 1 if trial.is_met else -1
    for reach in _REACH:
        step = sign * reach
        in_flight = _move(_IN_FLIGHT, choice.in_flight or policy.target_in_flight, step)
        fewer, more = (min(_move(_REPLICAS, choice.min_replicas, by), policy.max_replicas) for by in (-step, step))
        window = _move(_WINDOWS, round(policy.scale_down.window) if choice.window is None else choice.window, -step)
        yield replace(choice, in_flight=in_flight)
        yield replace(choice, min_replicas=fewer)
        # What one of them gives up the other may make up for.
        yield replace(choice, in_flight=in_flight, min_replicas=more)
        yield replace(choice, window=window)


def _move(ladder: tuple[int, ...], value: int, by: int) -> int:
    rungs = sorted({*ladder, value})
    return rungs[min(max(rungs.index(value) + by, 0), len(rungs) - 1)]
