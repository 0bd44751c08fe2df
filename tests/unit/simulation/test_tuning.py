from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lull.api.spec import LLMDeploymentSpec
from lull.core.simulation.fleet import Options, Outcome, simulate
from lull.core.simulation.policies import parse_policy
from lull.core.simulation.tuning import Choice, Trial, read_choice, tune
from tests.unit.simulation.models import Fixed, linear

ANY = simulate([], Fixed(0), linear(), Options(), 0)


def outcome(attainment: float, hours: float) -> Outcome:
    return replace(ANY, attainment=attainment, replica_hours=hours)


def search(policy: str, law: Callable[[Choice], Outcome], most: int = 200) -> list[Trial]:
    def evaluate(spec: LLMDeploymentSpec) -> Outcome:
        return law(read_choice(spec))

    return list(tune(parse_policy(policy, file="p"), evaluate, attainment=0.99, most=most))


def find_best(trials: list[Trial]) -> Trial:
    return [trial for trial in trials if trial.is_best][-1]


def thrifty(choice: Choice) -> Outcome:
    """The more a replica carries the cheaper; more than 50 is too much."""
    in_flight, window = choice.in_flight or 32, choice.window or 0
    return outcome(1.0 if in_flight <= 50 else 0.5, 10 / in_flight + choice.min_replicas + window)


def test_finds_the_cheapest_that_meets_the_slo() -> None:
    best = find_best(
        search(
            "{minReplicas: 3, maxReplicas: 8, target: {inFlight: 4}, behavior: {scaleDown: {stabilizationWindowSeconds: 300}}}",
            thrifty,
        )
    )

    assert best.is_met
    assert best.choice == Choice(in_flight=48, min_replicas=0, window=0)


def test_goes_for_the_slo_before_thrift() -> None:
    def strict(choice: Choice) -> Outcome:
        return outcome(min(1.0, 0.5 + 0.1 * choice.min_replicas), float(choice.min_replicas))

    best = find_best(search("{minReplicas: 0, maxReplicas: 10}", strict))

    assert best.is_met
    assert best.choice.min_replicas == 5


def test_tries_the_policy_as_given_first_and_none_twice() -> None:
    trials = search("{minReplicas: 3, target: {inFlight: 7}}", thrifty)

    assert trials[0].choice == Choice(in_flight=7, min_replicas=3, window=None)
    assert len({trial.choice for trial in trials}) == len(trials)


def test_ends_after_so_many_tries_and_says_so_where_nothing_meets_the_slo() -> None:
    trials = search("{minReplicas: 1}", lambda choice: outcome(0.5, 1.0), most=7)

    assert len(trials) == 7
    assert not find_best(trials).is_met


def test_never_leaves_the_bounds_of_the_policy() -> None:
    trials = search("{minReplicas: 0, maxReplicas: 5}", lambda choice: outcome(0.1 * choice.min_replicas, 1.0))

    assert find_best(trials).choice.min_replicas == 5
    assert max(trial.choice.min_replicas for trial in trials) == 5


def test_what_the_policy_leaves_to_lull_is_tried_as_it_is() -> None:
    trials = search("{minReplicas: 1}", thrifty)

    assert trials[0].choice.in_flight is None
    assert any(trial.choice == replace(trials[0].choice, min_replicas=2) for trial in trials)


def test_a_choice_is_what_a_spec_says_once_it_is_applied() -> None:
    spec = parse_policy("{minReplicas: 1}", file="p")
    choice = Choice(in_flight=11, min_replicas=2, window=60)

    assert read_choice(choice.apply(spec)) == choice
    assert read_choice(spec).min_replicas == 1
