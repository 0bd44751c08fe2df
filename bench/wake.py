"""How much Lull adds to a cold start: request held → pod created, and pod Ready → first byte at the client.

Thirty wakes of engine-sim, one after another, by a client on the same machine. The pod's moments are those at
which a watch on the API server told of them; the engine's own time to first token is read from its histogram.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Final

from bench.claims import Claim, percentile
from e2e.demo.recorder import Recorder
from e2e.lab import install, open_lab, sim_deployment
from e2e.progress import say
from lull.api import names

if TYPE_CHECKING:
    from e2e.lab import Installation, Lab

WAKES: Final = 30
MODELS: Final = 6
"""Models that take turns, so that one can fall asleep while the next wakes."""


def measure() -> list[Claim]:
    """Wake models one after another and read the clock at each moment."""
    with install(["lull", "engine-sim"]) as installation:
        return asyncio.run(_measure(installation))


async def _measure(installation: Installation) -> list[Claim]:
    to_created: list[float] = []
    to_first_byte: list[float] = []
    async with open_lab(installation, "bench-wake") as lab:
        models = [f"wake-{number}" for number in range(MODELS)]
        await lab.apply(
            *(
                sim_deployment(installation, model, sim={"startup": 0.5}, scaling={"idleAfter": "3s"})
                for model in models
            )
        )
        recorder = Recorder(lab)
        recording = asyncio.create_task(recorder.run())
        try:
            for wake in range(WAKES):
                model = models[wake % MODELS]
                created, first_byte = await _wake(lab, recorder, model)
                to_created.append(created * 1000)
                to_first_byte.append(first_byte * 1000)
                say(
                    f"  wake {wake + 1:2}: created after {created * 1000:.0f} ms, first byte {first_byte * 1000:.0f} ms"
                )
        finally:
            recording.cancel()
            await asyncio.gather(recording, return_exceptions=True)
    return [
        Claim("held request → pod created, p50", percentile(to_created, 50), 300, "ms", WAKES),
        Claim("held request → pod created, p99", percentile(to_created, 99), 1000, "ms", WAKES),
        Claim("pod Ready → first byte, less the engine's own, p99", percentile(to_first_byte, 99), 300, "ms", WAKES),
    ]


async def _wake(lab: Lab, recorder: Recorder, model: str) -> tuple[float, float]:
    await lab.until_condition(model, "Ready", "True", "ScaledToZero", within=90)

    async def asleep() -> bool:
        return not await lab.pods(model)

    await lab.until("its last pod is gone", asleep, within=60)
    known = set(recorder.stages)
    asked = time.time()
    async with lab.session.post(
        lab.gateway + "/v1/completions",
        json={"model": model, "prompt": "hello", "max_tokens": 4, "stream": True},
    ) as response:
        assert response.status == 200, await response.text()
        await response.content.readany()
        first_byte = time.time()
        await response.read()
    pod = next(
        name
        for name in recorder.stages.keys() - known
        if recorder.pods[name]["metadata"]["labels"][names.LABEL_DEPLOYMENT] == model
    )
    stages = recorder.stages[pod]
    own = await _time_to_first_token(lab, pod)
    return stages["created"] - asked, max(0.0, first_byte - stages["ready"] - own)


async def _time_to_first_token(lab: Lab, pod: str) -> float:
    path = f"/api/v1/namespaces/{lab.namespace}/pods/{pod}:{names.PORT_ENGINE}/proxy/metrics"
    async with lab.session.get(lab.installation.proxy + path) as response:
        text = await response.text()
    sums = re.findall(r"^vllm:time_to_first_token_seconds_sum(?:\{[^}]*\})? ([0-9.e+-]+)$", text, re.MULTILINE)
    return sum(map(float, sums))
