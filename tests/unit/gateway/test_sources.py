"""A gateway without Kubernetes: its models and engines are those of a file that changes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yaml

from lull.gateway import sources
from lull.gateway.config import InvalidConfig
from lull.gateway.server import serve
from lull.gateway.sources import FileSource
from tests.fakes.engine import FakeEngine, Gate
from tests.fakes.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


class Standalone:
    def __init__(self, file: Path, session: aiohttp.ClientSession) -> None:
        self.file = file
        self.session = session
        self.url = ""
        self.settings = {
            "port": free_port(),
            "adminPort": free_port(),
            "lameDuckSeconds": 0,
            "drainSeconds": 1,
        }

    def write(self, *models: dict[str, Any], **more: Any) -> None:
        # As editors and ConfigMaps do: another file takes the name.
        other = self.file.with_suffix(".new")
        other.write_text(yaml.safe_dump({**self.settings, "models": list(models), **more}))
        other.replace(self.file)

    async def ask(self, model: str = "llama") -> tuple[int, bytes]:
        async with self.chat(model) as response:
            return response.status, await response.read()

    def chat(self, model: str = "llama") -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        return self.session.post(f"http://127.0.0.1:{self.settings['port']}/v1/chat/completions", json=body)

    async def models(self) -> list[dict[str, Any]]:
        async with self.session.get(f"http://127.0.0.1:{self.settings['port']}/v1/models") as response:
            cards: list[dict[str, Any]] = (await response.json())["data"]
            return cards

    async def until_served(self, *names: str) -> None:
        async with asyncio.timeout(10):
            while True:
                try:
                    if [card["id"] for card in await self.models()] == list(names):
                        return
                except (aiohttp.ClientError, KeyError):
                    pass
                await asyncio.sleep(0.01)


def model(*engines: FakeEngine, name: str = "llama", **more: Any) -> dict[str, Any]:
    return {"name": name, "endpoints": [f"http://127.0.0.1:{engine.port}" for engine in engines], **more}


@pytest.fixture
async def standalone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setattr(sources, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(sources, "CHECK_SECONDS", 0.02)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        one = Standalone(tmp_path / "lull.yaml", session)

        @asynccontextmanager
        async def start(*models: dict[str, Any]) -> AsyncIterator[Standalone]:
            one.write(*models)
            source = FileSource(one.file)
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(serve(source.config.settings, source, stop=stop))
                await one.until_served(*(model["name"] for model in models))
                try:
                    yield one
                finally:
                    stop.set()

        yield start


async def test_serves_what_the_file_lists(standalone: Any) -> None:
    async with FakeEngine() as engine, standalone(model(engine)) as gateway:
        status, _ = await gateway.ask()

    assert status == 200
    assert engine.checks[0] == f"127.0.0.1:{engine.port}"


async def test_warns_of_an_engine_that_goes_by_another_name(standalone: Any, capfd: pytest.CaptureFixture[str]) -> None:
    said = ""
    async with FakeEngine() as engine, standalone(model(engine), model(engine, name="mistral")):
        async with asyncio.timeout(5):
            while said.count("endpoint ready") < 2 or "no such model" not in said:
                await asyncio.sleep(0.01)
                said += capfd.readouterr().out

    assert "names=['mistral']" in said
    assert "names=['llama']" not in said


async def test_says_of_no_model_where_it_comes_from_as_only_engines_know(standalone: Any) -> None:
    async with FakeEngine() as engine, standalone(model(engine)) as gateway:
        cards = await gateway.models()

    assert [(card["id"], card["root"], card["parent"]) for card in cards] == [("llama", None, None)]


async def test_an_engine_gets_requests_while_it_says_that_it_serves(standalone: Any) -> None:
    async with FakeEngine() as one, FakeEngine() as other, standalone(model(one, other)) as gateway:
        await until(lambda: len(one.checks) > 1 and len(other.checks) > 1)
        before = [await gateway.ask() for _ in range(8)]
        one.health = 503
        checks = len(one.checks)
        await until(lambda: len(one.checks) > checks + 2)
        received = len(one.received)
        after = [await gateway.ask() for _ in range(8)]

    assert {status for status, _ in (*before, *after)} == {200}
    assert len(one.received) == received > 0


async def test_a_request_waits_for_an_engine_that_comes_back(standalone: Any) -> None:
    async with FakeEngine() as engine, standalone(model(engine)) as gateway:
        await gateway.ask()
        await engine.stop()
        asked = asyncio.create_task(gateway.ask())
        await asyncio.sleep(0.1)
        await engine.start()
        status, _ = await asked

    assert status == 200


async def test_a_name_is_looked_up_and_the_address_that_serves_is_taken(
    standalone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(host: str) -> list[str]:
        assert host == "engine.example"
        return ["127.0.0.9", "127.0.0.1"]

    monkeypatch.setattr(sources, "_resolve", resolve)

    async with FakeEngine() as engine:
        named = {"name": "llama", "endpoints": [f"http://engine.example:{engine.port}"]}
        async with standalone(named) as gateway:
            status, _ = await gateway.ask()

    assert status == 200
    assert engine.checks[0] == f"engine.example:{engine.port}"


async def test_a_change_takes_effect_without_a_restart(standalone: Any) -> None:
    async with FakeEngine() as engine, standalone(model(engine)) as gateway:
        gateway.write(model(engine), model(engine, name="mistral"))
        await gateway.until_served("llama", "mistral")
        added = await gateway.ask("mistral")
        gateway.write(model(engine, name="mistral"))
        await gateway.until_served("mistral")
        removed = await gateway.ask("llama")

    assert (added[0], removed[0]) == (200, 404)


async def test_a_broken_file_changes_nothing(standalone: Any, capfd: pytest.CaptureFixture[str]) -> None:
    said = ""
    async with FakeEngine() as engine, standalone(model(engine)) as gateway:
        gateway.file.write_text("models: []\nport: a: b")
        async with asyncio.timeout(5):
            while "configuration kept" not in said:
                await asyncio.sleep(0.01)
                said += capfd.readouterr().out
        status, _ = await gateway.ask()
        gateway.write(model(engine, name="mended"))
        await gateway.until_served("mended")

    assert status == 200
    assert f"{gateway.file}:2: error: is no YAML" in said


async def test_an_engine_that_is_taken_out_finishes_what_it_has(standalone: Any) -> None:
    gate = Gate()
    async with FakeEngine(gate) as old, FakeEngine() as new, standalone(model(old)) as gateway:
        asked = asyncio.create_task(gateway.ask())
        await gate.entered.wait()
        gateway.write(model(new), model(new, name="sign"))
        await gateway.until_served("llama", "sign")
        fresh, _ = await gateway.ask()
        gate.opened.set()
        status, _ = await asked

    assert (status, fresh) == (200, 200)
    assert len(old.received) == 1


async def test_a_model_that_is_taken_out_finishes_what_it_has(standalone: Any) -> None:
    gate = Gate()
    async with FakeEngine(gate) as old, FakeEngine() as new, standalone(model(old)) as gateway:
        asked = asyncio.create_task(gateway.ask())
        await gate.entered.wait()
        gateway.write(model(new, name="mistral"))
        await gateway.until_served("mistral")
        gate.opened.set()
        status, _ = await asked

    assert status == 200


async def test_a_setting_that_is_different_is_told_to_need_a_restart(
    standalone: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    async with FakeEngine() as engine, standalone(model(engine)) as gateway:
        gateway.settings["drainSeconds"] = 2
        gateway.write(model(engine, name="other"))
        await gateway.until_served("other")

    assert "restart_for=['drain_seconds']" in capfd.readouterr().out


def test_a_process_that_is_started_anew_goes_on_with_the_last_file_that_was_right(tmp_path: Path) -> None:
    file, kept = tmp_path / "lull.yaml", tmp_path / "kept.yaml"
    file.write_text("models: []\nport: 9000\n")
    FileSource(file, kept=kept)

    file.write_text("models: {")

    assert FileSource(file, kept=kept).config.settings.port == 9000
    with pytest.raises(InvalidConfig):
        FileSource(file)


async def until(predicate: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not predicate():  # noqa: ASYNC110  what is waited for happens behind a socket
            await asyncio.sleep(0.01)
