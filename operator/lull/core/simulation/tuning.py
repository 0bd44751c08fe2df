"""The cheapest policy that meets an SLO: a search over the policy's own fields, a step at a time, with an end.

Each field has a ladder of values, with the policy's own value among them. From the policy as given, one field at a time
moves one rung, or two, up or down. What meets the SLO for fewer replica-hours is gone on from; while nothing meets it,
what meets it more often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lull.core.scaling import build_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lull.api.spec import LLMDeploymentSpec
    from lull.core.simulation.outcome import Outcome

_REPLICAS: Final = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
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
    best = _try(read_choice(spec), spec, evaluate, attainment, None)
    yield best
    tried = {best.choice}
    # Each round looks around the best: it ends where none of its neighbours is better.
    while True:
        around = [choice for choice in _list_around(best, spec) if choice not in tried]
        for choice in around:
            if len(tried) >= most:
                return
            tried.add(choice)
            trial = _try(choice, spec, evaluate, attainment, best)
            yield trial
            if trial.is_best:
                best = trial
                break
        else:
            return


def read_choice(spec: LLMDeploymentSpec) -> Choice:
    """What a spec says of the fields, defaults included."""
    scaling = spec.scaling
    return Choice(
        build_policy(spec).target_in_flight,
        scaling.min_replicas,
        scaling.behavior.scale_down.stabilization_window_seconds,
    )


def _try(
    choice: Choice,
    spec: LLMDeploymentSpec,
    evaluate: Callable[[LLMDeploymentSpec], Outcome],
    attainment: float,
    best: Trial | None,
) -> Trial:
    outcome = evaluate(choice.apply(spec))
    is_met = outcome.attainment >= attainment
    return Trial(choice, outcome, is_met, best is None or _rank(outcome, is_met) > _rank(best.outcome, best.is_met))


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
        yield Choice(choice.in_flight, choice.min_replicas, _move(_WINDOWS, choice.window, -step))


def _move(ladder: tuple[int, ...], value: int, by: int) -> int:
    rungs = sorted({*ladder, value})
    return rungs[min(max(rungs.index(value) + by, 0), len(rungs) - 1)]
