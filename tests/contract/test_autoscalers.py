"""The autoscalers that Lull is compared with, against their own code: both decide the same on random signals."""

from __future__ import annotations

import random
from typing import Any

from bench.autoscaling.hpa import (
    MILLI,
    SYNC,
    TOLERANCE,
    Behavior,
    Controller,
    Step,
    propose_for_pods,
    propose_for_total,
)
from bench.autoscaling.knative import Autoscaler
from bench.autoscaling.reference import HPA, KPA, ask

CASES = 150
SIGNALS = 120


def test_decides_as_kubernetes_does_on_a_metric_of_pods() -> None:
    cases = [_make_hpa(random.Random(seed)) for seed in range(CASES)]

    decided = ask(HPA, [case["asked"] for case in cases])

    for case, replicas in zip(cases, decided, strict=True):
        assert _run_pods(case) == replicas


def test_decides_as_kubernetes_does_on_metrics_of_the_whole() -> None:
    cases = [_make_hpa(random.Random(seed), external=("waiting", "running")) for seed in range(CASES)]

    decided = ask(HPA, [case["asked"] for case in cases])

    for case, replicas in zip(cases, decided, strict=True):
        assert _run_external(case) == replicas


def test_decides_as_knative_does() -> None:
    cases = [_make_kpa(random.Random(seed)) for seed in range(CASES)]

    decided = ask(KPA, cases)

    for case, wanted in zip(cases, decided, strict=True):
        scaler = Autoscaler(
            target=case["target"],
            stable_window=case["stable_window"],
            panic_window=case["panic_window"],
            panic_threshold=case["panic_threshold"],
            max_up_rate=case["max_up_rate"],
            max_down_rate=case["max_down_rate"],
        )
        assert [scaler.decide(one["at"], one["ready"], one["concurrency"]) for one in case["signals"]] == wanted


def _make_hpa(chance: random.Random, external: tuple[str, ...] = ()) -> dict[str, Any]:
    least, most = chance.randint(1, 3), chance.randint(4, 40)
    behavior = chance.choice((None, _make_behavior(chance)))
    target = chance.choice((1, 5, 16))
    metrics = [
        {"type": "External", "external": {"metric": {"name": name}, "target": {"averageValue": str(target)}}}
        for name in external
    ] or [{"type": "Pods", "pods": {"metric": {"name": "waiting"}, "target": {"averageValue": str(target)}}}]
    level, signals = 0, []
    for _ in range(SIGNALS):
        # A load that now and then jumps, drifts, and is gone.
        level = max(0, chance.choice((level, level, level + chance.randint(-2000, 2000), chance.randint(0, 40_000), 0)))
        signals.append(
            {
                "ready": chance.choice((0, 1, 3, 100, 100, 100)),
                "each": level,
                "external": {name: round(level * chance.uniform(0, 8)) for name in external if chance.random() < 0.95},
            }
        )
    return {
        "behavior": behavior,
        "target": target * MILLI,
        "external": external,
        "asked": {
            "replicas": chance.randint(0, 45),
            "sync": SYNC,
            "tolerance": TOLERANCE,
            "window": 300,
            "spec": {
                "minReplicas": least,
                "maxReplicas": most,
                "metrics": metrics,
                **({} if behavior is None else {"behavior": _render_behavior(behavior)}),
            },
            "signals": signals,
        },
    }


def _make_behavior(chance: random.Random) -> Behavior:
    def make_steps() -> tuple[Step, ...]:
        steps = (
            Step(chance.randint(1, 6), chance.choice((15, 30, 60, 120))),
            Step(chance.choice((10, 50, 100)), chance.choice((15, 60, 120)), is_percent=True),
        )
        return chance.choice((steps, steps[:1], steps[1:]))

    return Behavior(
        up=make_steps(),
        up_window=chance.choice((0, 30, 90)),
        down=make_steps(),
        down_window=chance.choice((0, 60, 180, 300)),
    )


def _render_behavior(behavior: Behavior) -> dict[str, Any]:
    def render(steps: tuple[Step, ...], window: float) -> dict[str, Any]:
        return {
            "stabilizationWindowSeconds": window,
            "policies": [
                {"type": "Percent" if step.is_percent else "Pods", "value": step.value, "periodSeconds": step.period}
                for step in steps
            ],
        }

    return {
        "scaleUp": render(behavior.up, behavior.up_window),
        "scaleDown": render(behavior.down, behavior.down_window),
    }


def _run_pods(case: dict[str, Any]) -> list[int]:
    return _run(
        case,
        lambda signal, replicas: (
            propose_for_pods(replicas, [signal["each"]] * min(replicas, signal["ready"]), case["target"]),
        ),
    )


def _run_external(case: dict[str, Any]) -> list[int]:
    return _run(
        case,
        lambda signal, replicas: tuple(
            propose_for_total(replicas, signal["external"][name], case["target"])
            if name in signal["external"]
            else None
            for name in case["external"]
        ),
    )


def _run(case: dict[str, Any], propose: Any) -> list[int]:
    asked = case["asked"]
    controller = Controller(asked["spec"]["minReplicas"], asked["spec"]["maxReplicas"], case["behavior"])
    replicas, decided = asked["replicas"], []
    for number, signal in enumerate(asked["signals"]):
        proposals = propose(signal, replicas) if replicas else ()
        replicas = controller.sync(number * SYNC, replicas, proposals)
        decided.append(replicas)
    return decided


def _make_kpa(chance: random.Random) -> dict[str, Any]:
    ready, level, signals = 0, 0.0, []
    for number in range(SIGNALS):
        level = max(0.0, chance.choice((level, level, level + chance.uniform(-3, 3), chance.uniform(0, 200), 0.0)))
        ready = chance.choice((ready, ready, ready, chance.randint(0, 30))) if number else chance.randint(0, 1)
        signals.append({"at": 1000.0 + 2 * number, "ready": ready, "concurrency": level})
    return {
        "target": chance.choice((1.0, 7.0, 70.0)),
        "stable_window": chance.choice((60, 120)),
        "panic_window": chance.choice((6, 12)),
        "panic_threshold": chance.choice((2.0, 1.5)),
        "max_up_rate": chance.choice((1000.0, 2.0)),
        "max_down_rate": chance.choice((2.0, 1.5)),
        "down_delay": 0,
        "signals": signals,
    }
