"""What Helm tells a newcomer to do, done word for word; and its own test of the release."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from e2e.lab import RELEASE, SYSTEM, helm, sim_deployment
from lull.api import names

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

    from e2e.lab import Lab


async def test_the_notes_commands_work_as_they_are_printed(lab: Lab, tmp_path: Path) -> None:
    notes = await asyncio.to_thread(helm, lab.installation.cluster, "get", "notes", RELEASE)
    declare, reach, watch = re.split(r"^\d\. .*$", notes, flags=re.MULTILINE)[1:]
    environment = _environment(lab, tmp_path)

    async with _running(declare, environment) as process:
        said = await _read(process)
        assert "llmdeployment.lull.dev/qwen created" in said
    # The test cluster has neither the model nor the vLLM image: the same name, served by what it has.
    await lab.apply(sim_deployment(lab.installation, "qwen"))
    async with _running(watch, environment) as watching:
        async with _running(reach, environment) as asking:
            assert "data: [DONE]" in await _read(asking, until=r"data: \[DONE\]")
        # The watch ends when it is told to: what it said by then is what a person sees.
        # Others' LLMDeployments may be on their way out in the same list.
        await _read(watching, until=rf"(?m)^{lab.namespace}\s+qwen\s.*1/1")


async def test_helm_test_tells_whether_the_gateways_answer(lab: Lab) -> None:
    cluster = lab.installation.cluster

    assert "Phase:          Succeeded" in await asyncio.to_thread(helm, cluster, "test", RELEASE)

    scale = ("-n", SYSTEM, "scale", "deployment/lull-gateway")
    await asyncio.to_thread(lab.installation.kubectl, *scale, "--replicas=0")
    try:
        gone = ("-n", SYSTEM, "wait", "--for=delete", "pod", f"-l={names.LABEL_COMPONENT}=gateway", "--timeout=120s")
        await asyncio.to_thread(lab.installation.kubectl, *gone)
        with pytest.raises(RuntimeError, match="test-models"):
            await asyncio.to_thread(helm, cluster, "test", RELEASE)
    finally:
        await asyncio.to_thread(lab.installation.kubectl, *scale, "--replicas=2")
        rollout = ("-n", SYSTEM, "rollout", "status", "deployment/lull-gateway", "--timeout=120s")
        await asyncio.to_thread(lab.installation.kubectl, *rollout)

    # The pod of a test that failed stays, for its log, until one succeeds.
    assert "Phase:          Succeeded" in await asyncio.to_thread(helm, cluster, "test", RELEASE)


def _environment(lab: Lab, folder: Path) -> dict[str, str]:
    """A newcomer's shell: kubectl on the PATH, and the lab's namespace as the one that is meant."""
    kubeconfig = folder / "kubeconfig"
    shutil.copy(lab.installation.cluster.kubeconfig, kubeconfig)
    lab.installation.kubectl(
        "config", "set-context", "--current", f"--namespace={lab.namespace}", f"--kubeconfig={kubeconfig}"
    )
    path = f"{lab.installation.cluster.kubectl.parent}:{os.environ['PATH']}"
    return {**os.environ, "KUBECONFIG": str(kubeconfig), "PATH": path}


@asynccontextmanager
async def _running(script: str, environment: dict[str, str]) -> AsyncIterator[Process]:
    """A shell that is given these lines, and whatever it leaves behind in the background."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", script),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        await process.wait()


async def _read(process: Process, *, until: str = "") -> str:
    """What the shell says, up to what matches or to its end, which then comes too early."""
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(120):
        while line := await process.stdout.readline():
            said += line.decode()
            if until and re.search(until, said):
                return said
    assert not until, said
    return said
