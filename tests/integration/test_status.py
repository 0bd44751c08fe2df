"""The status as an API server stores it and kubectl reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lull.api.llmdeployment import Manifest
from lull.doors.kube import LLMDEPLOYMENTS, Kube
from tests.golden.statuses import STATUSES
from tests.integration.conftest import ApiServer
from tests.manifests import manifest


async def _store(kube: Kube, namespace: str, case: Path) -> None:
    status = yaml.safe_load((case / "status.yaml").read_text())
    stored = await kube.apply(manifest(namespace=namespace))
    generation = stored["metadata"]["generation"]
    conditions = [{**condition, "observedGeneration": generation} for condition in status["conditions"]]
    await kube.patch_status(LLMDEPLOYMENTS, stored, {**status, "conditions": conditions})


async def test_every_status_is_kept_whole(kube: Kube, namespace: str) -> None:
    stored: Manifest | None = await kube.apply(manifest(namespace=namespace))

    for case in STATUSES:
        status = yaml.safe_load((case / "status.yaml").read_text())
        assert stored is not None
        await kube.patch_status(LLMDEPLOYMENTS, stored, {"coldStart": None, "engine": None, **status})
        stored = await kube.get(LLMDEPLOYMENTS, namespace, "llama-8b")

        assert stored is not None
        assert stored["status"] == status, case.name


@pytest.mark.parametrize(
    ("name", "is_ready"),
    [
        ("just-created", False),
        ("starting", False),
        ("unschedulable", False),
        ("engine-crash-loop", False),
        ("invalid-spec-while-serving", False),
        ("accelerators-exceed-nodes", False),
        ("incompatible-model-while-serving", False),
        ("serving", True),
        ("rollout-failing-while-serving", True),
        ("adapters-loading", True),
        ("second-replica-loading", True),
        ("asleep", True),
    ],
)
async def test_kubectl_wait_tells_the_truth(
    apiserver: ApiServer, kube: Kube, namespace: str, name: str, is_ready: bool
) -> None:
    case = next(case for case in STATUSES if case.name == name)
    await _store(kube, namespace, case)

    answer = apiserver.kubectl(
        "wait", "--for=condition=Ready", "llm/llama-8b", "-n", namespace, "--timeout=1s", check=False
    )

    assert ("condition met" in answer) is is_ready


async def test_kubectl_wait_does_not_take_the_word_of_an_earlier_spec(
    apiserver: ApiServer, kube: Kube, namespace: str
) -> None:
    await _store(kube, namespace, next(case for case in STATUSES if case.name == "serving"))
    await kube.apply(manifest(namespace=namespace, engine={"maxModelLen": 4096}))

    answer = apiserver.kubectl(
        "wait", "--for=condition=Ready", "llm/llama-8b", "-n", namespace, "--timeout=1s", check=False
    )

    assert "timed out" in answer
