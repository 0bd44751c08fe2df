"""Claims to served names, as LLMDeployments come and go."""

from __future__ import annotations

import asyncio

import pytest

from lull.api.llmdeployment import Key, Manifest
from lull.controller.claims import Claims
from lull.doors.kube import WatchEvent
from lull.doors.store import Store
from tests.manifests import manifest

pytestmark = [pytest.mark.looptime]


class Scene:
    """A store that a test fills, and whom the claims had reconciled."""

    def __init__(self) -> None:
        self.store = Store()
        self.told: list[str] = []
        self.claims = Claims(self.store, lambda key: self.told.append(key.name))
        self.store.listen(self.claims.take)

    def put(self, name: str, *, created: int, serving: str | None = None, adapter: str | None = None) -> None:
        self.store._take(WatchEvent("ADDED", _written(name, created, serving, adapter)))

    def remove(self, name: str) -> None:
        self.store._take(WatchEvent("DELETED", _written(name, 0, None)))

    def conflict(self, name: str) -> str | None:
        return self.claims.find_conflict(Key("default", name))


def _written(name: str, created: int, serving: str | None, adapter: str | None = None) -> Manifest:
    items = [{"name": adapter, "source": "hf://org/adapter"}] if adapter else []
    model = {"source": "hf://org/name", **({"name": serving} if serving else {})}
    whole = manifest(name=name, model=model, adapters={"items": items})
    metadata = {
        **whole["metadata"],
        "uid": name,
        "resourceVersion": "1",
        "creationTimestamp": f"2026-01-01T00:00:{created:02}Z",
    }
    return {**whole, "metadata": metadata}


async def test_the_younger_of_two_hears_of_its_loss_and_of_its_gain() -> None:
    scene = Scene()
    scene.put("a", created=1)
    scene.put("b", created=2, serving="a")
    await asyncio.sleep(1)
    assert scene.conflict("a") is None
    assert scene.conflict("b") == '"a" is already served by default/a'
    assert scene.told == ["b"]

    scene.remove("a")
    await asyncio.sleep(1)

    assert scene.conflict("b") is None
    assert scene.told == ["b", "b"]


async def test_an_older_one_that_is_seen_later_wins() -> None:
    scene = Scene()
    scene.put("b", created=2, serving="a")
    await asyncio.sleep(1)
    scene.put("a", created=1)
    await asyncio.sleep(1)

    assert scene.conflict("a") is None
    assert scene.conflict("b") is not None


async def test_judges_at_once_where_it_is_asked_to() -> None:
    scene = Scene()
    scene.put("a", created=1)
    scene.put("b", created=2, serving="a")

    scene.claims.judge()

    assert scene.conflict("b") is not None


async def test_an_adapter_that_takes_anothers_name_is_lost_alone_until_that_goes() -> None:
    scene = Scene()
    scene.put("a", created=1, adapter="fr")
    scene.put("b", created=2, adapter="fr")
    await asyncio.sleep(1)

    key = Key("default", "b")
    assert scene.conflict("b") is None
    assert scene.claims.find_adapter_conflicts(key) == {"fr": '"fr" is already served by default/a'}
    assert scene.told == ["b"]
    scene.remove("a")
    await asyncio.sleep(1)

    assert scene.claims.find_adapter_conflicts(key) == {}
    assert scene.told == ["b", "b"]
