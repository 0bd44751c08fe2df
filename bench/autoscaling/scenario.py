"""llm-d's published scenario for its SLO-aware loop: load in stages, 3 to 8 replicas, scored until back at 3."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from bench.autoscaling.contest import LULL, STATIC, build_lull
from bench.autoscaling.hpa import Behavior, Hpa, Keda, SloLoop, Step
from bench.autoscaling.plans import Static
from bench.autoscaling.traces import make_llmd
from lull.core.simulation.fleet import Options, Slo, simulate
from lull.core.simulation.presets import PRESETS
from lull.core.simulation.replica import Load, highest_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lull.core.simulation.fleet import Scaler
    from lull.core.simulation.outcome import Sample

ENGINE: Final = "qwen3-32b-h100-tp2"
SLO: Final = Slo(ttft=3.0, tpot=0.1)
LEAST: Final = 3
MOST: Final = 8
COLD_START: Final = 100.0
LAST_STAGE: Final = 2130.0
"""Seconds from the beginning to the last stage, of 1 request per second."""
UNTIL: Final = 3900.0
"""By then everybody is back at the floor."""
PUBLISHED_ATTAINMENT: Final = 95.8
PUBLISHED_REPLICAS: Final = 5.93
# The ScaledObject of llm-d's guide for queue and running requests.
_GUIDE: Final = Behavior(up=(Step(100, 15, is_percent=True),))

CONTENDERS: Final[dict[str, Callable[[], Scaler]]] = {
    STATIC: lambda: Static(MOST),
    "HPA": lambda: Hpa(least=LEAST, most=MOST),
    "KEDA": lambda: Keda(least=LEAST, most=MOST),
    "llm-d queue": lambda: Keda(queue_target=1, least=LEAST, most=MOST, behavior=_GUIDE, poll=15),
    "llm-d SLO loop": lambda: SloLoop(SLO.ttft, SLO.tpot, least=LEAST, most=MOST),
    LULL: lambda: build_lull(MOST, slo=SLO, minReplicas=LEAST),
}


@dataclass(frozen=True, slots=True)
class Score:
    attainment: float
    replicas: float
    """Provisioned, on average until the fleet is back at the floor."""


def score(contender: str) -> Score:
    """Play the scenario once."""
    scaler = CONTENDERS[contender]()
    options = Options(
        cold_start=COLD_START,
        slo=SLO,
        max_replicas=MOST,
        initial_replicas=MOST if contender == STATIC else LEAST,
        until=UNTIL,
    )
    outcome = simulate(make_llmd(), scaler, PRESETS[ENGINE], options, seed=1)
    return Score(outcome.attainment, _average(outcome.samples))


def find_rate() -> float:
    """Requests per second that one replica sustains within the SLO: 1.4 to 1.5 were published."""
    load = Load(input_tokens=4000, output_tokens=1000)
    return highest_rate(PRESETS[ENGINE], load, ttft=SLO.ttft, tpot=SLO.tpot)


def _average(samples: Sequence[Sample]) -> float:
    drained_at = next((one.at for one in samples if one.at > LAST_STAGE and one.asked <= LEAST), samples[-1].at)
    end = max(drained_at, next(one.at for one in samples if one.at >= LAST_STAGE))
    spans = [(one.at, min(after.at, end), one.asked + one.leaving) for one, after in pairwise(samples)]
    return sum((until - at) * count for at, until, count in spans if until > at) / end
