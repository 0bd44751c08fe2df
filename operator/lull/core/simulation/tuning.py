"""The cheapest policy that meets an SLO: a search over the policy's own fields, with an end.

First a sweep: for few and for many replicas that are always kept, the highest `inFlight` that meets the SLO is found by
halving, as more of it is cheaper and slower. Then a climb: from the best so far each field moves a rung or two of its
ladder, or two of them in opposite senses, for as long as something is better. What meets the SLO for fewer
replica-hours is better, and while nothing meets it, what meets it more often.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lull.core.scaling import build_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lull.api.spec import LLMDeploymentSpec
    from lull.core.simulation.outcome import Outcome

_REPLICAS: Final = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_SWEPT: Final = (0, 1, 2, 4, 8, 12, 16, 24, 32, 64)
_IN_FLIGHT: Final = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 90, 128, 181, 256, 362, 512)
_WINDOWS: Final = (0, 30, 60, 120, 180, 300, 450, 600, 900, 1800, 3600)
_REACH: Final = (1, -1, 2, -2)


@dataclass(frozen=True, slots=True)
class Choice:
    """The fields that are searched, of `spec.scaling`."""

    in_flight: int
    """Of `target`."""
    min_replicas: int
    window: int
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
    yield from search.sweep(given)
    yield from search.climb()


def read_choice(spec: LLMDeploymentSpec) -> Choice:
    """What a spec says of the fields, defaults included."""
    scaling = spec.scaling
    return Choice(
        build_policy(spec).target_in_flight,
        scaling.min_replicas,
        scaling.behavior.scale_down.stabilization_window_seconds,
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
        least = 0
        for replicas in _SWEPT:
            if replicas > self.spec.scaling.max_replicas or self._is_dear(replicas):
                return
            low, high = least - 1, len(_IN_FLIGHT)
            while high - low > 1 and not self.is_over:
                middle = (low + high) // 2
                choice = Choice(_IN_FLIGHT[middle], replicas, given.window)
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
    choice, most = trial.choice, spec.scaling.max_replicas
    sign = 1 if trial.is_met else -1
    for reach in _REACH:
        step = sign * reach
        in_flight = _move(_IN_FLIGHT, choice.in_flight, step)
        yield Choice(in_flight, choice.min_replicas, choice.window)
        replicas = min(_move(_REPLICAS, choice.min_replicas, -step), most)
        yield Choice(choice.in_flight, replicas, choice.window)
        # What one of them gives up the other may make up for.
        yield Choice(in_flight, min(_move(_REPLICAS, choice.min_replicas, step), most), choice.window)
        yield Choice(choice.in_flight, choice.min_replicas, _move(_WINDOWS, choice.window, -step))


def _move(ladder: tuple[int, ...], value: int, by: int) -> int:
    rungs = sorted({*ladder, value})
    return rungs[min(max(rungs.index(value) + by, 0), len(rungs) - 1)]
