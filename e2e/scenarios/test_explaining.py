"""`lull wake`, `lull why` and `lull cost`, and what they tell over a restart of the operator."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab import SYSTEM, sim_deployment
from e2e.scenarios.conftest import PRICE

if TYPE_CHECKING:
    from e2e.lab import Lab
    from lull.api.llmdeployment import Manifest


async def test_a_model_is_woken_by_command_and_its_costs_outlive_the_operator(lab: Lab) -> None:
    priced = {"vendor": "Nvidia", "product": "NVIDIA-L4"}
    scaling = {"idleAfter": "45s"}
    await lab.apply(sim_deployment(lab.installation, "woken", sim={"startup": 6}, accelerator=priced, scaling=scaling))
    await lab.until_condition("woken", "Ready", "True", "ScaledToZero")

    # The command is over before anything runs.
    assert "woken is woken" in await lull(lab, "wake", "woken")
    await lab.until_replicas("woken", 1)

    assert "woken is awake, 1 of 1 ready" in await lull(lab, "wake", "woken", "--wait", "--timeout", "2m")
    assert (await lab.demand()).get(f"{lab.namespace}/woken", {"arrived": 0})["arrived"] == 0
    why = await lull(lab, "why", "woken")
    assert "0 → 1 at " in why
    assert "woken by lull wake, nothing running" in why
    before = await until_rate(lab, "woken", f"{PRICE:.2f}")
    assert before["price"] == f"1 x NVIDIA-L4 at {PRICE:g} (operator.acceleratorPrices)"

    await asyncio.to_thread(lab.installation.kubectl, "-n", SYSTEM, "rollout", "restart", "deployment/lull-operator")
    await asyncio.to_thread(
        lab.installation.kubectl, "-n", SYSTEM, "rollout", "status", "deployment/lull-operator", "--timeout=180s"
    )
    await lab.until_condition("woken", "Ready", "True", "ScaledToZero", within=240)

    after = await until_rate(lab, "woken", "0.00")
    assert after["since"] == before["since"]
    assert float(after["thisMonth"]) > float(before["thisMonth"])
    # The annotation is still there, and was followed.
    assert await lab.replicas("woken") == 0
    account = json.loads(await lull(lab, "cost", "woken", "-o", "json"))
    assert account["bills"][0]["thisMonth"] == after["thisMonth"]


async def until_rate(lab: Lab, name: str, amount: str) -> Manifest:
    """Wait until status says that replicas cost so much an hour, and return all that it says of costs."""

    async def check() -> Manifest | None:
        cost: Manifest = (await lab.llm(name))["status"]["cost"]
        return cost if cost["perHour"] == amount else None

    found: Manifest = await lab.until(f"{name} costs {amount} an hour", check)
    return found


async def lull(lab: Lab, *arguments: str) -> str:
    """Run `lull` as a user does; what it prints."""
    result = await asyncio.to_thread(
        subprocess.run,
        [str(Path(sys.executable).with_name("lull")), *arguments, "-n", lab.namespace],
        env={**os.environ, "KUBECONFIG": str(lab.installation.cluster.kubeconfig), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
