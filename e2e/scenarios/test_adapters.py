"""Adapters: model names at the gateway that come, go and come back while pods run on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import openai
import pytest

from e2e.demo import story
from e2e.lab import conditions, sim_deployment
from e2e.scenarios.clients import ask

if TYPE_CHECKING:
    from e2e.lab import Lab
    from lull.api.llmdeployment import Manifest

# Names of models are everybody's in the cluster: each scenario has adapters of its own.
FR, DE = "hf://lull/tiny-lora-a", "hf://lull/tiny-lora-b"
BIG = "hf://lull/tiny-lora-r64"


pytestmark = pytest.mark.usefixtures("hub")


async def test_adapters_come_go_and_come_back_and_no_pod_restarts_for_it(lab: Lab) -> None:
    steady = {"minReplicas": 2, "maxReplicas": 2}
    with_two = sim_deployment(lab.installation, "base", scaling=steady, adapters=_list(fr=FR, de=DE))
    await lab.apply(with_two)
    await _until_adapters(lab, "base", fr="Ready", de="Ready")

    for model in ("base", "fr", "de"):
        assert (await ask(lab, model)).model == model
    listed = {model.id: model async for model in lab.client.models.list()}
    assert listed["fr"].to_dict()["parent"] == "base"
    born = await _processes(lab, "base")

    # One more, one that no engine can take, and one less.
    await lab.apply({**with_two, "spec": {**with_two["spec"], "adapters": _list(fr=FR, it=DE, big=BIG)}})
    await _until_adapters(lab, "base", fr="Ready", it="Ready", big="Failed")
    assert (await ask(lab, "it")).model == "it"
    with pytest.raises(openai.NotFoundError):
        await ask(lab, "de")
    found = {one["name"]: one for one in (await lab.llm("base"))["status"]["adapters"]}
    assert "rank 64 is over spec.adapters.maxRank, 16" in found["big"]["message"]

    async def everywhere() -> bool:
        adapters = (await lab.llm("base"))["status"]["adapters"]
        return {one["name"]: one["readyReplicas"] for one in adapters} == {"fr": 2, "it": 2, "big": 0}

    # Ready is said of the replicas that are; one of the two may be younger.
    await lab.until("both replicas have both adapters", everywhere)
    assert conditions(await lab.llm("base"))["AdaptersReady"]["reason"] == "AdapterFailed"
    with pytest.raises(openai.InternalServerError, match="rank 64"):
        await ask(lab, "big")

    async def gone() -> bool:
        loaded = [await _loaded(lab, pod["metadata"]["name"]) for pod in await lab.pods("base")]
        return all(names == {"base", "fr", "it"} for names in loaded)

    await lab.until("engines have what is listed and nothing else", gone)
    assert await _processes(lab, "base") == born


async def test_an_engine_that_dies_has_its_adapters_back_and_no_request_is_lost(lab: Lab) -> None:
    one = {"minReplicas": 1, "maxReplicas": 1}
    await lab.apply(sim_deployment(lab.installation, "mortal", scaling=one, adapters=_list(mortal_fr=FR)))
    await _until_adapters(lab, "mortal", mortal_fr="Ready")
    (pod,) = await lab.pods("mortal")
    before = await _processes(lab, "mortal")

    await _die(lab, pod["metadata"]["name"])
    await lab.until("the engine runs again", lambda: _has_changed(lab, "mortal", before))
    answers = await asyncio.gather(*(ask(lab, "mortal_fr") for _ in range(3)))

    assert [answer.model for answer in answers] == ["mortal_fr"] * 3
    assert (await _processes(lab, "mortal")).keys() == before.keys()
    await _until_adapters(lab, "mortal", mortal_fr="Ready")


async def test_a_request_for_an_adapter_wakes_its_model(lab: Lab) -> None:
    await lab.apply(sim_deployment(lab.installation, "dozing", adapters=_list(dozing_fr=FR, dozing_de=DE)))
    await lab.until_condition("dozing", "Ready", "True", "ScaledToZero")

    first, second = await asyncio.gather(ask(lab, "dozing_fr"), ask(lab, "dozing_de"))

    assert (first.model, second.model) == ("dozing_fr", "dozing_de")
    assert len(await lab.pods("dozing")) == 1


async def test_real_vllm_serves_adapters(lab: Lab) -> None:
    deployment = story.real_deployment(lab.installation.images["engine-cpu"], "tuned")
    spec = {
        **deployment["spec"],
        "scaling": {"minReplicas": 1, "maxReplicas": 1},
        "adapters": {**_list(tuned_fr=FR, tuned_de=DE, tuned_big=BIG), "maxLoaded": 2},
    }
    await lab.apply({**deployment, "spec": spec})

    first = await _say(lab, "tuned_fr")
    await _until_adapters(lab, "tuned", tuned_fr="Ready", tuned_de="Ready", tuned_big="Failed")
    texts = {model: await _say(lab, model) for model in ("tuned", "tuned_fr", "tuned_de")}

    assert texts["tuned_fr"] == first
    assert len(set(texts.values())) == 3, "each adapter changes what the model says"
    born = await _processes(lab, "tuned")
    # The same name from another source is another adapter.
    await lab.apply({**deployment, "spec": {**spec, "adapters": {**_list(tuned_fr=DE), "maxLoaded": 2}}})
    await _until_adapters(lab, "tuned", tuned_fr="Ready")
    assert await _say(lab, "tuned_fr") == texts["tuned_de"]
    with pytest.raises(openai.NotFoundError):
        await _say(lab, "tuned_de")
    assert await _processes(lab, "tuned") == born
    await lab.kubectl("delete", "llm", "tuned", "--wait=true")


def _list(**sources: str) -> dict[str, Any]:
    return {"items": [{"name": name, "source": source} for name, source in sources.items()]}


async def _say(lab: Lab, model: str) -> str:
    answer = await lab.client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Say something."}], max_tokens=12, temperature=0
    )
    assert answer.choices[0].message.content
    return answer.choices[0].message.content


async def _until_adapters(lab: Lab, name: str, **states: str) -> None:
    """Wait until status says exactly this of the adapters."""

    async def check() -> bool:
        status = (await lab.llm(name))["status"]
        return {one["name"]: one["state"] for one in status.get("adapters", [])} == states

    await lab.until(f"{name}: adapters {states}", check)


async def _processes(lab: Lab, name: str) -> dict[str, int]:
    """Restarts of the engine's container by the pod's uid: the same answer means the same processes."""
    return {pod["metadata"]["uid"]: _restarts(pod) for pod in await lab.pods(name)}


async def _has_changed(lab: Lab, name: str, before: dict[str, int]) -> bool:
    return await _processes(lab, name) != before


def _restarts(pod: Manifest) -> int:
    return sum(one["restartCount"] for one in pod["status"]["containerStatuses"])


async def _die(lab: Lab, pod: str) -> None:
    """Lose the engine's core, as when a worker is killed."""
    path = f"/api/v1/namespaces/{lab.namespace}/pods/{pod}:8000/proxy/sim/die"
    async with lab.session.post(lab.installation.proxy + path) as response:
        assert response.status == 200, await response.text()


async def _loaded(lab: Lab, pod: str) -> set[str]:
    """What an engine itself says that it serves."""
    path = f"/api/v1/namespaces/{lab.namespace}/pods/{pod}:8000/proxy/v1/models"
    async with lab.session.get(lab.installation.proxy + path) as response:
        return {model["id"] for model in (await response.json())["data"]}
