"""What the autoscaler makes of load, of time, of money, and of silence."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from e2e.lab import SYSTEM, sim_deployment
from e2e.scenarios.clients import ask, load
from e2e.scenarios.conftest import PRICE
from lull.api import names
from lull.doors.kube import PODS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from e2e.lab import Lab
    from e2e.scenarios.clients import Outcome
    from lull.api.llmdeployment import Manifest

SLOW: Final[dict[str, Any]] = {"decode_tps": 10}
"""An answer of ten tokens takes a second: many requests in flight, and few for a processor."""
TOKENS: Final = 10
TARGET: Final[dict[str, Any]] = {"inFlight": 3}
PATIENT: Final[dict[str, Any]] = {"scaleDown": {"stabilizationWindowSeconds": 20}}
"""A machine that stands still for a moment takes no replica away."""
ADMIN_SERVICE: Final = "service/lull-gateway-admin"
NOBODY_LISTENS: Final = 9
"""A port of the gateways."""


async def test_a_burst_of_forty_times_the_load_has_its_replicas_and_gives_them_back(lab: Lab) -> None:
    scaling = {"target": TARGET, "minReplicas": 1, "maxReplicas": 6, "behavior": PATIENT}
    await lab.apply(sim_deployment(lab.installation, "burst", sim=SLOW, scaling=scaling))
    await lab.until_replicas("burst", 1)

    async with load(lab, "burst", clients=1, tokens=TOKENS) as steady:
        await lab.until("there is an answer", lambda: _has(steady.answered))
        assert await lab.replicas("burst") == 1
        async with load(lab, "burst", clients=39, tokens=TOKENS) as outcome:
            await lab.until_replicas("burst", 6)
        ups = await _decisions(lab, "burst")

    for gone in (steady, outcome):
        assert gone.failures == []
        assert gone.broken == []
    assert outcome.answered >= 39
    assert ups[-1]["toReplicas"] == 6
    assert _only_up(ups), ups
    assert {record["reason"] for record in ups} <= {"AtMinimum", "QueueAboveTarget", "InFlightAboveTarget"}
    await lab.until_replicas("burst", 1)


async def test_a_slow_ramp_is_followed_step_by_step_while_time_alone_wakes_another_model(lab: Lab) -> None:
    begin = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    schedule = {"cron": f"{begin.minute} {begin.hour} * * *", "duration": "1h", "minReplicas": 2}
    await lab.apply(
        sim_deployment(lab.installation, "timed", scaling={"schedules": [schedule]}),
        sim_deployment(
            lab.installation, "ramp", sim=SLOW, scaling={"target": TARGET, "maxReplicas": 4, "behavior": PATIENT}
        ),
    )
    await lab.until_condition("ramp", "Ready", "True", "ScaledToZero")

    async with AsyncExitStack() as clients:
        outcomes: list[Outcome] = []
        for count in range(1, 5):
            # As many as so many replicas are meant for, and one more than fewer could be.
            while len(outcomes) < 3 * count:
                outcomes.append(await clients.enter_async_context(load(lab, "ramp", clients=1, tokens=TOKENS)))
            await lab.until_replicas("ramp", count)
        steps = await _decisions(lab, "ramp")

    assert [failure for outcome in outcomes for failure in (*outcome.failures, *outcome.broken)] == []
    assert [record["toReplicas"] for record in steps] == [1, 2, 3, 4]
    assert steps[0]["reason"] == "Activated"

    await lab.until_replicas("timed", 2)
    (woken,) = await _decisions(lab, "timed")
    assert (woken["fromReplicas"], woken["toReplicas"], woken["reason"]) == (0, 2, "Scheduled")
    # Nothing was measured yet that the operator could have asked beforehand by.
    assert datetime.fromisoformat(woken["at"]) >= begin
    assert f"{lab.namespace}/timed" not in await lab.demand()
    await _scale_by(lab, "timed", schedules=[])
    await lab.until_condition("timed", "Ready", "True", "ScaledToZero")


async def test_an_operator_that_dies_in_the_middle_of_a_burst_takes_nothing_away_and_goes_on(lab: Lab) -> None:
    scaling = {"target": TARGET, "minReplicas": 1, "maxReplicas": 5, "behavior": PATIENT}
    await lab.apply(sim_deployment(lab.installation, "bereft", sim=SLOW, scaling=scaling))
    await lab.until_replicas("bereft", 1)

    async with load(lab, "bereft", clients=8, tokens=TOKENS) as first:
        await lab.until("more than one replica is asked for", lambda: _has_more(lab, "bereft", 1))
        await lab.kill("operator")
        asked = [await lab.replicas("bereft")]

        async def all_asked_for() -> bool:
            asked.append(await lab.replicas("bereft"))
            return asked[-1] == 5

        async with load(lab, "bereft", clients=20, tokens=TOKENS) as second:
            await lab.until("bereft: all replicas are asked for", all_asked_for)
            await lab.until_replicas("bereft", 5)

    assert asked == sorted(asked)
    for outcome in (first, second):
        assert outcome.failures == []
        assert outcome.broken == []
    await lab.until_replicas("bereft", 1)


async def test_replicas_are_held_while_the_gateways_demand_is_not_heard(lab: Lab) -> None:
    scaling = {"target": TARGET, "idleAfter": "5s"}
    await lab.apply(
        sim_deployment(lab.installation, "loaded", sim=SLOW, scaling=scaling),
        sim_deployment(lab.installation, "asleep", scaling=scaling),
    )
    await lab.until_condition("asleep", "Ready", "True", "ScaledToZero")

    async with load(lab, "loaded", clients=9, tokens=TOKENS) as outcome:
        await lab.until_replicas("loaded", 3)
        async with _silenced(lab):
            await lab.until_condition("loaded", "ScalingActive", "False", "MetricsUnavailable")
            # Silence is no sign of idleness, and no sign of load.
            request = asyncio.create_task(ask(lab, "asleep"))
            await lab.until_asked("asleep", 1)
            said = await lab.until_condition("asleep", "ScalingActive", "False", "MetricsUnavailable")
            gateways = await lab.kube.list(PODS, namespace=SYSTEM, labels=f"{names.LABEL_COMPONENT}=gateway")
            assert [pod["metadata"]["name"] in said["message"] for pod in gateways.items] == [True] * len(
                gateways.items
            )
            await asyncio.sleep(8)
            assert await lab.replicas("loaded") == 3
            assert await lab.replicas("asleep") == 0

    assert await request
    assert outcome.failures == []
    await lab.until_condition("loaded", "ScalingActive", "True", "Scaling")
    await lab.until_condition("loaded", "Ready", "True", "ScaledToZero")


async def test_a_pace_a_shadow_and_a_budget_under_the_same_burst(lab: Lab) -> None:
    """Four replicas are what the load asks for; each model has another reason not to have them, or not at once."""
    scaling = {"target": TARGET, "minReplicas": 1, "maxReplicas": 4, "behavior": PATIENT}
    pace = {**PATIENT, "scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 3}]}}
    models = ("paced", "shadowed", "budgeted")
    await lab.apply(
        sim_deployment(lab.installation, "paced", sim=SLOW, scaling={**scaling, "behavior": pace}),
        sim_deployment(lab.installation, "shadowed", sim=SLOW, scaling=scaling),
        sim_deployment(
            lab.installation,
            "budgeted",
            sim=SLOW,
            accelerator={"vendor": "Nvidia", "product": "NVIDIA-L4"},
            scaling={**scaling, "budget": {"perHour": str(PRICE)}},
        ),
    )
    for model in models:
        await lab.until_replicas(model, 1)
    await _scale_by(lab, "shadowed", mode="Shadow")
    await lab.until_condition("shadowed", "ScalingActive", "False", "Shadow")

    async with AsyncExitStack() as loads:
        outcomes = [await loads.enter_async_context(load(lab, model, clients=24, tokens=TOKENS)) for model in models]
        await lab.until_replicas("paced", 4)
        would = await lab.until("shadowed: four are recorded", lambda: _find(lab, "shadowed", to=4))
        await lab.until_asked("budgeted", 20)
        assert [await lab.replicas(model) for model in models] == [4, 1, 1]

        await _scale_by(lab, "shadowed", mode="Active")
        await _scale_by(lab, "budgeted", budget={"perHour": str(2 * PRICE)})
        await lab.until_replicas("shadowed", 4)
        await lab.until_replicas("budgeted", 2)
        capped = await lab.until("budgeted: it is in status", lambda: _find(lab, "budgeted", to=2))

    assert [failure for outcome in outcomes for failure in (*outcome.failures, *outcome.broken)] == []
    steps = await _decisions(lab, "paced")
    assert [record["toReplicas"] for record in steps[:4]] == [1, 2, 3, 4]
    assert "Limited" in {record["reason"] for record in steps}
    assert (would["fromReplicas"], would["reason"]) == (1, "Shadow")
    assert (capped["fromReplicas"], capped["reason"]) == (1, "AtBudget")
    assert f"pays for 2 at {PRICE:g} each" in capped["message"]


async def _decisions(lab: Lab, name: str) -> list[Manifest]:
    """The last decisions, oldest first."""
    decisions: list[Manifest] = (await lab.llm(name))["status"].get("decisions", [])
    return decisions[::-1]


async def _find(lab: Lab, name: str, *, to: int) -> Manifest | None:
    return next((record for record in await _decisions(lab, name) if record["toReplicas"] == to), None)


def _only_up(decisions: list[Manifest]) -> bool:
    return all(record["toReplicas"] > record["fromReplicas"] for record in decisions)


async def _scale_by(lab: Lab, name: str, **scaling: Any) -> None:
    """Change what the spec says about scaling."""
    patch = json.dumps({"spec": {"scaling": scaling}})
    await lab.kubectl("patch", f"llm/{name}", "--type=merge", f"-p={patch}")


async def _has(count: int) -> bool:
    return count > 0


async def _has_more(lab: Lab, name: str, than: int) -> bool:
    return await lab.replicas(name) > than


@asynccontextmanager
async def _silenced(lab: Lab) -> AsyncIterator[None]:
    """The operator finds every gateway, and none of them answers it; clients notice nothing."""
    await _set_admin_port(lab, NOBODY_LISTENS)
    try:
        yield
    finally:
        await _set_admin_port(lab, "admin")


async def _set_admin_port(lab: Lab, port: int | str) -> None:
    patch = [{"op": "replace", "path": "/spec/ports/0/targetPort", "value": port}]
    await asyncio.to_thread(
        lab.installation.kubectl, "-n", SYSTEM, "patch", ADMIN_SERVICE, "--type=json", f"-p={json.dumps(patch)}"
    )
