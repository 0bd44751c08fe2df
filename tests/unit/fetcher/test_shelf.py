"""The sidecar: what it is told over HTTP, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from lull.doors.serving import Answer, Call, serve
from lull.fetcher.adapters import Wanted
from lull.fetcher.failures import DiskFull, Failed, NotFound, Unreachable
from lull.fetcher.shelf import MAX_ADAPTERS, Shelf
from tests.fakes.ports import free_port
from tests.unit.fetcher.test_adapters import write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SOURCE = "hf://lull/tiny-lora-a"


class Store:
    """Where adapters come from: writes a good one, or does what it was told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failures: dict[str, list[Exception]] = {}
        self.ranks: dict[str, int] = {}
        self.gates: dict[str, asyncio.Event] = {}

    async def bring(self, source: str, target: Path) -> None:
        self.asked.append(source)
        if source in self.gates:
            await self.gates[source].wait()
        if self.failures.get(source):
            raise self.failures[source].pop(0)
        write(target, rank=self.ranks.get(source, 8))


class Sidecar:
    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def put(self, identity: str, source: str = SOURCE, name: str = "x") -> Answer:
        return self.shelf.answer(
            Call("PUT", f"/adapters/{identity}", json.dumps({"name": name, "source": source}).encode())
        )

    def delete(self, identity: str) -> Answer:
        return self.shelf.answer(Call("DELETE", f"/adapters/{identity}", b""))

    def list(self) -> dict[str, dict[str, Any]]:
        content = json.loads(self.shelf.answer(Call("GET", "/adapters", b"")).content)
        return {one.pop("id"): one for one in content["adapters"]}

    async def until(self, identity: str, state: str) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while (found := self.list()[identity])["state"] != state:  # noqa: ASYNC110  it is asked, as the operator does
                await asyncio.sleep(0.005)
        return found


@asynccontextmanager
async def running(root: Path, store: Store) -> AsyncIterator[Sidecar]:
    stop = asyncio.Event()
    shelf = Shelf(root, store.bring, Wanted(16, "hf://lull/tiny"))
    async with asyncio.TaskGroup() as group:
        group.create_task(shelf.run(stop))
        await asyncio.sleep(0)
        yield Sidecar(shelf)
        stop.set()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lull.fetcher.shelf.FIRST_PAUSE", 0.01)


async def test_an_adapter_that_is_asked_for_is_fetched_checked_and_listed(tmp_path: Path) -> None:
    async with running(tmp_path, Store()) as sidecar:
        assert sidecar.put("a-1", name="support").status == 202

        found = await sidecar.until("a-1", "Ready")

        assert (found["name"], found["source"], found["message"]) == ("support", SOURCE, "")
        assert found["path"] == str(tmp_path / "a-1")
        assert found["bytes"] > 0


async def test_asking_again_changes_nothing(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as sidecar:
        sidecar.put("a-1")
        await sidecar.until("a-1", "Ready")

        sidecar.put("a-1")
        await asyncio.sleep(0.02)

        assert store.asked == [SOURCE]


async def test_what_is_forgotten_leaves_no_file(tmp_path: Path) -> None:
    async with running(tmp_path, Store()) as sidecar:
        sidecar.put("a-1")
        await sidecar.until("a-1", "Ready")

        assert sidecar.delete("a-1").status == 200
        assert sidecar.list() == {}
        assert sidecar.delete("a-1").status == 200
        async with asyncio.timeout(5):
            while list(tmp_path.iterdir()):  # noqa: ASYNC110  a thread clears it away
                await asyncio.sleep(0.005)


async def test_forgetting_ends_a_fetch_and_a_new_one_waits_for_the_cleaning(tmp_path: Path) -> None:
    store = Store()
    gate = store.gates[SOURCE] = asyncio.Event()
    async with running(tmp_path, store) as sidecar:
        sidecar.put("a-1")
        await asyncio.sleep(0.01)
        sidecar.delete("a-1")
        sidecar.put("a-1")
        gate.set()

        await sidecar.until("a-1", "Ready")

    assert (tmp_path / "a-1" / "adapter_config.json").is_file()
    assert store.asked == [SOURCE, SOURCE]


@pytest.mark.parametrize("failure", [NotFound("It was not found."), Failed("It holds no weights.")])
async def test_what_cannot_succeed_is_tried_once_and_says_why(tmp_path: Path, failure: Failed) -> None:
    store = Store()
    store.failures[SOURCE] = [failure, failure]
    async with running(tmp_path, store) as sidecar:
        sidecar.put("a-1")

        found = await sidecar.until("a-1", "Failed")
        await asyncio.sleep(0.05)

        assert found["message"] == str(failure)
        assert store.asked == [SOURCE]
    assert not (tmp_path / "a-1").exists()


async def test_one_that_is_wrong_is_cleared_away_and_keeps_no_other(tmp_path: Path) -> None:
    store = Store()
    store.ranks["hf://lull/big"] = 64
    async with running(tmp_path, store) as sidecar:
        sidecar.put("big", "hf://lull/big")
        sidecar.put("good")

        found = await sidecar.until("big", "Failed")
        await sidecar.until("good", "Ready")

        assert "rank 64" in found["message"]
    assert not (tmp_path / "big").exists()


async def test_what_may_pass_is_tried_again(tmp_path: Path) -> None:
    store = Store()
    store.failures[SOURCE] = [
        Unreachable("The hub cannot be reached."),
        DiskFull("No room."),
        OSError(28, "No space left on device"),
    ]
    async with running(tmp_path, store) as sidecar:
        sidecar.put("a-1")

        await sidecar.until("a-1", "Ready")

    assert len(store.asked) == 4


async def test_while_it_is_tried_again_the_list_says_why(tmp_path: Path) -> None:
    store = Store()
    store.failures[SOURCE] = [DiskFull("No room is left.")]
    async with running(tmp_path, store) as sidecar:
        sidecar.put("a-1")
        async with asyncio.timeout(5):
            while not sidecar.list()["a-1"]["message"]:  # noqa: ASYNC110
                await asyncio.sleep(0)

        assert sidecar.list()["a-1"]["message"] == "No room is left. Lull keeps trying."
        assert sidecar.list()["a-1"]["state"] == "Fetching"


async def test_a_bug_with_one_is_its_own_end_only(tmp_path: Path) -> None:
    store = Store()
    store.failures[SOURCE] = [RuntimeError("a bug")]
    async with running(tmp_path, store) as sidecar:
        sidecar.put("a-1")
        sidecar.put("b-1", "hf://lull/other")

        await sidecar.until("a-1", "Failed")
        await sidecar.until("b-1", "Ready")


async def test_a_restart_keeps_what_was_ready_and_goes_on_with_the_rest(tmp_path: Path) -> None:
    store = Store()
    store.gates["hf://lull/slow"] = asyncio.Event()
    async with running(tmp_path, store) as sidecar:
        sidecar.put("a-1", name="one")
        sidecar.put("slow-1", "hf://lull/slow")
        await sidecar.until("a-1", "Ready")
        before = sidecar.list()["a-1"]
    (tmp_path / "stray").mkdir()

    second = Store()
    async with running(tmp_path, second) as sidecar:
        assert sidecar.list()["a-1"] == before
        await sidecar.until("slow-1", "Ready")

    assert second.asked == ["hf://lull/slow"]
    assert not (tmp_path / "stray").exists()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/healthz", b"", 200),
        ("GET", "/", b"", 404),
        ("PUT", "/adapters/..%2Fx", b"{}", 404),
        ("PUT", "/adapters/a/b", b"{}", 404),
        ("PUT", "/adapters/UPPER", b"{}", 404),
        ("PUT", "/adapters/" + "a" * 100, b"{}", 404),
        ("POST", "/adapters", b"{}", 405),
        ("POST", "/adapters/a", b"{}", 405),
        ("PUT", "/adapters/a", b"", 400),
        ("PUT", "/adapters/a", b"[]", 400),
        ("PUT", "/adapters/a", b'{"name": "", "source": "hf://a/b"}', 400),
        ("PUT", "/adapters/a", b'{"name": "x", "source": "file:///etc"}', 400),
        ("PUT", "/adapters/a", b'{"name": "x", "source": "hf://a/b\\nc"}', 400),
        ("PUT", "/adapters/a", b'{"name": 1, "source": "hf://a/b"}', 400),
    ],
)
async def test_only_what_is_meant_is_done(tmp_path: Path, method: str, path: str, body: bytes, status: int) -> None:
    async with running(tmp_path, Store()) as sidecar:
        assert sidecar.shelf.answer(Call(method, path, body)).status == status
        assert sidecar.list() == {}


async def test_there_is_an_end_to_how_many_it_takes(tmp_path: Path) -> None:
    store = Store()
    store.gates[SOURCE] = asyncio.Event()
    async with running(tmp_path, store) as sidecar:
        answers = [sidecar.put(f"a-{number}").status for number in range(MAX_ADAPTERS + 1)]

        assert answers == [202] * MAX_ADAPTERS + [429]


async def test_it_speaks_http(tmp_path: Path) -> None:
    async with (
        running(tmp_path, Store()) as sidecar,
        serve(sidecar.shelf.answer, port := free_port()),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        assert (await client.put("/adapters/a-1", json={"name": "x", "source": SOURCE})).status_code == 202
        await sidecar.until("a-1", "Ready")
        listed = (await client.get("/adapters")).json()["adapters"]
        assert [one["id"] for one in listed] == ["a-1"]
        assert (await client.put("/adapters/a-2", content=b"x" * (2 << 20))).status_code == 413
        assert (await client.delete("/adapters/a-1")).status_code == 200
