"""What an LLMDeployment lists ends up in every engine, and what is taken out leaves them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lull.api.llmdeployment import Key
from tests.unit.residence.conftest import KEY, LLMDEPLOYMENTS

if TYPE_CHECKING:
    from tests.unit.residence.conftest import Scene


async def test_every_replica_loads_every_adapter(scene: Scene) -> None:
    await scene.list_adapters("fr", "de")
    one, other = await scene.add_pod("pod-1"), await scene.add_pod("pod-2")

    await scene.settle(lambda: scene.view() == {"fr": ("Ready", 2, ""), "de": ("Ready", 2, "")})

    assert one.loaded == other.loaded == {"fr", "de"}
    assert KEY in scene.told


async def test_steady_state_loads_nothing_and_tells_nothing(scene: Scene) -> None:
    await scene.list_adapters("fr")
    await scene.add_pod()
    await scene.settle(lambda: scene.states() == {"fr": "Ready"})
    await scene.residence.settle(KEY)
    told = len(scene.told)

    delay = await scene.residence.settle(KEY)

    assert delay == 10.0
    assert len(scene.told) == told


async def test_a_changed_list_takes_one_in_and_one_out(scene: Scene) -> None:
    await scene.list_adapters("fr", "de")
    pod = await scene.add_pod()
    await scene.settle(lambda: pod.loaded == {"fr", "de"})

    await scene.list_adapters("fr", "it")
    await scene.settle(lambda: pod.loaded == {"fr", "it"} and len(list((scene.folder / "pod-1").iterdir())) == 2)

    assert scene.asked == ["hf://lull/fr", "hf://lull/de", "hf://lull/it"]


async def test_emptying_the_list_leaves_nothing_behind(scene: Scene) -> None:
    await scene.list_adapters("fr")
    pod = await scene.add_pod()
    await scene.settle(lambda: pod.loaded == {"fr"})

    await scene.list_adapters()

    await scene.settle(lambda: not pod.loaded and not list((scene.folder / "pod-1").iterdir()))


async def test_another_source_is_loaded_in_the_place_of_the_first(scene: Scene) -> None:
    await scene.list_adapters("fr")
    pod = await scene.add_pod()
    await scene.settle(lambda: pod.loaded == {"fr"})
    assert pod.sim is not None
    before = dict(pod.sim.adapters.loaded)

    await scene.list_adapters(fr="hf://lull/better")
    await scene.settle(lambda: pod.sim is not None and pod.sim.adapters.loaded != before)

    assert pod.loaded == {"fr"}
    await scene.settle(lambda: scene.view() == {"fr": ("Ready", 1, "")})


async def test_an_engine_that_restarted_has_its_adapters_back_without_fetching(scene: Scene) -> None:
    await scene.list_adapters("fr", "de")
    pod = await scene.add_pod()
    await scene.settle(lambda: pod.loaded == {"fr", "de"})

    await pod.restart()
    assert not pod.loaded
    await scene.settle(lambda: pod.loaded == {"fr", "de"})

    assert len(scene.asked) == 2


async def test_an_engine_that_sleeps_is_told_nothing_while_its_pod_fetches(scene: Scene) -> None:
    await scene.list_adapters("fr")
    pod = await scene.add_pod()
    await scene.settle(lambda: pod.loaded == {"fr"})
    await scene.put(pod, asleep=True)

    await scene.list_adapters("it")
    await scene.settle(lambda: len(list((scene.folder / "pod-1").iterdir())) == 2)
    for _ in range(3):
        await scene.residence.settle(KEY)
    assert pod.loaded == {"fr"}

    await scene.put(pod)
    await scene.settle(lambda: pod.loaded == {"it"})


async def test_a_restarted_operator_loads_nothing_twice(scene: Scene) -> None:
    await scene.list_adapters("fr")
    pod = await scene.add_pod()
    await scene.settle(lambda: pod.loaded == {"fr"})

    scene.residence._known.clear()
    await scene.settle(lambda: scene.view() == {"fr": ("Ready", 1, "")})

    assert scene.asked == ["hf://lull/fr"]


async def test_until_it_has_looked_a_restarted_operator_repeats_what_status_says(scene: Scene) -> None:
    said = {"name": "fr", "state": "Ready", "readyReplicas": 3, "message": ""}
    await scene.list_adapters("fr", "de", status={"observedGeneration": 1, "adapters": [said]})

    assert scene.view() == {"fr": ("Ready", 3, ""), "de": ("Pending", 0, "")}


async def test_what_cannot_be_served_says_so_while_the_others_serve(scene: Scene) -> None:
    await scene.list_adapters("fr", "big", "missing")
    pod = await scene.add_pod()

    await scene.settle(lambda: scene.states() == {"fr": "Ready", "big": "Failed", "missing": "Failed"})

    assert pod.loaded == {"fr"}
    assert "rank 64 is over spec.adapters.maxRank, 16" in scene.view()["big"][2]
    assert "was not found" in scene.view()["missing"][2]
    for _ in range(3):
        await scene.residence.settle(KEY)
    assert len(scene.asked) == 3


async def test_what_the_engine_refuses_is_not_asked_of_it_again_until_it_is_put_back(scene: Scene) -> None:
    await scene.list_adapters("tiny-fr", own="hf://lull/x")
    pod = await scene.add_pod()

    await scene.settle(lambda: scene.states() == {"tiny-fr": "Ready", "own": "Failed"})
    assert "give the adapter another one" in scene.view()["own"][2]
    await scene.list_adapters("tiny-fr")
    await scene.settle(lambda: scene.states() == {"tiny-fr": "Ready"})
    await scene.residence.settle(KEY)

    assert not any(scene.residence._known[KEY].setbacks.values())
    assert pod.loaded == {"tiny-fr"}


async def test_adapters_are_fetched_while_the_engine_still_starts(scene: Scene) -> None:
    await scene.list_adapters("fr")
    pod = await scene.add_pod(ready=False)

    await scene.settle(lambda: scene.asked == ["hf://lull/fr"])
    await scene.residence.settle(KEY)
    assert not pod.loaded
    await scene.put(pod)

    await scene.settle(lambda: pod.loaded == {"fr"})


async def test_a_replica_that_does_not_answer_keeps_no_other(scene: Scene) -> None:
    await scene.list_adapters("fr")
    dead, alive = await scene.add_pod("pod-1"), await scene.add_pod("pod-2")
    await dead.stop()

    await scene.settle(lambda: alive.loaded == {"fr"})
    await scene.settle(lambda: scene.states() == {"fr": "Loading"})
    delay = await scene.residence.settle(KEY)

    assert delay == 2.0
    await dead.start()


async def test_an_adapter_whose_name_is_anothers_is_not_loaded(scene: Scene) -> None:
    scene.conflicts["fr"] = '"fr" is already served by default/older'
    await scene.list_adapters("fr", "de")
    pod = await scene.add_pod()

    await scene.settle(lambda: scene.states() == {"fr": "Failed", "de": "Ready"})

    assert pod.loaded == {"de"}
    assert scene.view()["fr"][2].startswith('"fr" is already served by default/older')


async def test_without_replicas_everything_is_pending(scene: Scene) -> None:
    await scene.list_adapters("fr")

    assert await scene.residence.settle(KEY) == 10.0
    assert scene.states() == {"fr": "Pending"}


async def test_llmdeployments_without_adapters_are_no_concern(scene: Scene) -> None:
    await scene.list_adapters("fr")
    await scene.residence.settle(KEY)
    assert scene.residence.concerns(KEY)
    assert not scene.residence.concerns(Key("default", "other"))

    await scene.server.remove(LLMDEPLOYMENTS, "tiny")
    await scene.until(lambda: scene.store.find_deployment(KEY) is None)

    assert await scene.residence.settle(KEY) is None
    assert not scene.residence.concerns(KEY)


async def test_a_pod_that_goes_while_it_is_tended_ends_nothing(scene: Scene) -> None:
    await scene.list_adapters(*(f"a{number}" for number in range(40)))
    pod = await scene.add_pod()
    working = asyncio.ensure_future(scene.settle(lambda: len(scene.asked) > 20))
    await asyncio.sleep(0.05)
    await pod.stop()

    await working

    await pod.start()
    await scene.settle(lambda: len(pod.loaded) == 40)
