"""Bad input: from clients, answered in OpenAI's shapes; in specs, refused or explained with what to change."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import openai
import pytest

from e2e.lab import SYSTEM, sim_deployment
from e2e.scenarios.clients import ask
from lull.api import names
from lull.doors.kube import PODS

if TYPE_CHECKING:
    from e2e.lab import Lab


async def _post(lab: Lab, body: bytes, *, path: str = "/v1/chat/completions") -> tuple[int, Any, Any]:
    async with lab.session.post(
        lab.gateway + path, data=io.BytesIO(body), headers={"content-type": "application/json"}
    ) as response:
        return response.status, await response.json(content_type=None), response.headers


async def test_clients_get_clear_errors(lab: Lab) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await ask(lab, "no-such-model")
    assert unknown.value.code == "model_not_found"

    for body, status in (
        (b"not json", 400),
        (b'{"messages": []}', 400),
        (b'{"model": "no-such-model", "pad": "' + b"x" * (17 * 1024 * 1024) + b'"}', 413),
    ):
        code, answer, _ = await _post(lab, body)
        assert code == status
        assert answer["error"]["message"]
    for path in ("/metrics", "/sleep", "/v1/load_lora_adapter", "/v1//chat/completions", "/demand", "/sim/config"):
        code, answer, _ = await _post(lab, b"{}", path=path)
        assert (path, code) == (path, 404)
        assert answer["error"]["type"]


async def test_a_full_queue_sheds_and_a_late_cold_start_gives_up(lab: Lab) -> None:
    await lab.apply(
        sim_deployment(lab.installation, "narrow", sim={"startup": 60}, queue={"maxHeld": 1, "holdFor": "8s"})
    )
    await lab.until_condition("narrow", "Ready", "True", "ScaledToZero")

    answers = await asyncio.gather(*(ask(lab, "narrow") for _ in range(6)), return_exceptions=True)

    statuses = sorted(getattr(answer, "status_code", 200) for answer in answers)
    # Each of the two gateways holds one; which gateway a request comes to is not ours to say.
    assert set(statuses) == {429, 503}
    assert 1 <= statuses.count(503) <= 2
    for answer in answers:
        assert isinstance(answer, openai.APIStatusError)
        assert int(answer.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"source": "https://example.com/model"}}, "spec.model.source"),
        ({"scaling": {"minReplicas": 5, "maxReplicas": 2}}, "minReplicas must not be greater than maxReplicas"),
        ({"engine": {"image": "vllm/vllm-openai:v0.33.0"}}, "set it to an image of the vendor"),
        ({"rollout": {"drain": "soon"}}, "spec.rollout.drain"),
        ({"parallelism": {"tensor": 0}}, "spec.parallelism.tensor"),
    ],
    ids=["source", "bounds", "image", "duration", "tensor"],
)
async def test_the_api_server_refuses_what_cannot_be(lab: Lab, change: dict[str, Any], words: str) -> None:
    manifest = sim_deployment(lab.installation, "bad")
    manifest["spec"].update(change)

    with pytest.raises(RuntimeError, match="bad") as refused:
        await lab.apply(manifest)

    assert words in str(refused.value)


async def test_a_spec_that_cannot_work_says_what_to_change(lab: Lab) -> None:
    refused = sim_deployment(lab.installation, "refused")
    refused["spec"]["engine"]["extraArgs"] = ["--served_model_name=other"]
    too_large = sim_deployment(lab.installation, "too-large", replicas=1)
    too_large["spec"]["accelerator"] = {"vendor": "Nvidia"}
    too_large["spec"]["parallelism"] = {"tensor": 16}
    no_image = sim_deployment(lab.installation, "no-image", replicas=1)
    no_image["spec"]["engine"]["image"] = "lull/no-such-image:none"
    crashing = sim_deployment(lab.installation, "crashing", sim={"startup": 0.2, "exit_after_startup": 1}, replicas=1)
    restarts = await _operator_restarts(lab)
    await lab.apply(refused, too_large, no_image, crashing)

    invalid = await lab.until_condition("refused", "SpecValid", "False", "InvalidSpec")
    assert "--served" in invalid["message"]
    assert "spec.model.name" in invalid["message"]
    for name, reason in (
        ("too-large", "AcceleratorsExceedNodes"),
        ("no-image", "ImagePullFailed"),
        ("crashing", "EngineCrashLoop"),
    ):
        condition = await lab.until_condition(name, "Ready", "False", reason)
        assert len(condition["message"]) > 40, condition

    crashing["spec"]["engine"]["extraArgs"] = ["--sim-startup=1"]
    await lab.apply(crashing)
    await lab.until_condition("crashing", "Ready", "True", "Serving")
    assert await _operator_restarts(lab) == restarts


async def _operator_restarts(lab: Lab) -> dict[str, int]:
    operators = await lab.kube.list(PODS, namespace=SYSTEM, labels=f"{names.LABEL_COMPONENT}=operator")
    return {
        pod["metadata"]["name"]: sum(container["restartCount"] for container in pod["status"]["containerStatuses"])
        for pod in operators.items
    }
