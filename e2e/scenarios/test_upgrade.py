"""A new version of Lull, operator, gateways and CRD, under load: no engine restarts and no request fails."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab import RELEASE, ROOT, helm, helm_install, sim_deployment
from e2e.scenarios.clients import ask, load
from e2e.scenarios.conftest import VALUES

if TYPE_CHECKING:
    from e2e.lab import Installation, Lab


@dataclass(frozen=True)
class Version:
    """A chart and the image that belongs to it."""

    chart: Path
    image: str


async def test_upgrade_from_the_previous_commit_under_load(lab: Lab, tmp_path: Path) -> None:
    installation = lab.installation
    previous = await asyncio.to_thread(find_previous, installation, tmp_path)
    # Another reference even where history holds no other image: it is part of what the operator writes into pods.
    values = (*VALUES, "image.registry=docker.io", "logLevel=debug")
    try:
        await asyncio.to_thread(install, installation, previous)
        await lab.apply(
            sim_deployment(installation, "steady", scaling={"minReplicas": 2, "maxReplicas": 2}),
            sim_deployment(installation, "asleep"),
        )
        await lab.until_replicas("steady", 2)
        await lab.until_condition("asleep", "Ready", "True", "ScaledToZero")
        before = await engines(lab)

        async with load(lab, "steady", clients=6) as outcome:
            await asyncio.to_thread(helm_install, installation.cluster, installation.images["lull"], values)
            # Long enough for the new operator to look at everything that the old one left.
            await asyncio.sleep(20)
        after = await engines(lab)

        assert outcome.failures == []
        assert outcome.broken == []
        assert outcome.answered > 20
        assert after == before
        # The new operator is at work on what the old one made, and still leaves it running.
        assert await ask(lab, "asleep")
        await lab.kubectl("scale", "llm/steady", "--replicas=3")
        await lab.until_replicas("steady", 3)
        assert before.items() <= (await engines(lab)).items()
    finally:
        await asyncio.to_thread(helm_install, installation.cluster, installation.images["lull"], VALUES)


def find_previous(installation: Installation, folder: Path) -> Version:
    """The previous commit's chart and image, built by its own builder; without history, today's."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD~1"], capture_output=True, check=False)
    if archive.returncode != 0:
        return Version(ROOT / "charts" / "lull", installation.images["lull"])
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    build = [sys.executable, "-m", "e2e.images", "build", "lull", "--json"]
    built = json.loads(subprocess.run(build, cwd=folder, stdout=subprocess.PIPE, check=True).stdout)["lull"]
    installation.cluster.load(Path(built["archive"]))
    return Version(folder / "charts" / "lull", built["reference"])


def install(installation: Installation, version: Version) -> None:
    """`helm upgrade` to the version, with nothing but its image set."""
    repository, _, tag = version.image.rpartition(":")
    helm(
        installation.cluster,
        *("upgrade", "--install", RELEASE, str(version.chart)),
        *("--set", f"image.repository={repository}", "--set", f"image.tag={tag}", "--wait", "--timeout", "3m"),
    )


async def engines(lab: Lab) -> dict[str, int]:
    """Restarts of each engine pod, by its uid."""
    pods = await lab.pods("steady")
    return {
        pod["metadata"]["uid"]: sum(status["restartCount"] for status in pod["status"]["containerStatuses"])
        for pod in pods
    }
