"""Limits that two gateways share through a real Valkey."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Any

import pytest

from e2e.valkey import Server, find_server
from lull.core.keys import ApiKey
from lull.core.limits import Shortage, Unit
from lull.doors import valkey as door
from lull.doors.valkey import Taken, Tally, Unavailable
from tests.fakes.ports import free_port
from tests.unit.gateway import conftest as gateways
from tests.unit.gateway.test_access import answering, ask, entry, put_keys, wait_keys

if TYPE_CHECKING:
    from tests.unit.gateway.conftest import World

running = gateways.running
KEY = ApiKey("team-a", b"", requests_per_minute=10, tokens_per_minute=1000, tokens_per_day=5000)


@dataclass
class Valkey:
    """A server that can be stopped, frozen and started again."""

    server: Server
    folder: Path
    port: int
    processes: list[Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.processes.append(self.server.start(self.folder, port=self.port, options=("--requirepass", "secret")))

    def stop(self) -> None:
        process = self.processes.pop()
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def server() -> Server:
    return find_server()


@pytest.fixture
def valkey(server: Server, tmp_path: Path) -> Iterator[Valkey]:
    port = free_port()
    one = Valkey(server, tmp_path, port)
    one.start()
    yield one
    while one.processes:
        one.stop()


@asynccontextmanager
async def sharing(valkey: Valkey, *, gateways: int = 1, **options: Any) -> AsyncIterator[list[Tally]]:
    tallies = [Tally(valkey.url, password="secret", prefix="test", **options) for _ in range(gateways)]
    tasks = [asyncio.ensure_future(tally.run()) for tally in tallies]
    await until(lambda: all(tally.is_available for tally in tallies))
    yield tallies
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_true():  # noqa: ASYNC110  the condition is Valkey's
            await asyncio.sleep(0.01)


async def spend(tally: Tally, *, tokens: int, key: ApiKey = KEY) -> Taken | Shortage:
    """Charge, asking again where this busy machine took too long for an answer."""
    async with asyncio.timeout(30):
        while True:
            await until(lambda: tally.is_available)
            try:
                return await tally.charge(key, tokens=tokens)
            except Unavailable:
                continue


async def test_two_gateways_pass_exactly_the_limit(valkey: Valkey) -> None:
    # What counts here is the count: a charge whose answer came too late would have been made all the same.
    async with sharing(valkey, gateways=2, deadline=30.0) as tallies:
        answers = await asyncio.gather(*(tallies[turn % 2].charge(KEY, tokens=1) for turn in range(40)))

    passed = [one for one in answers if isinstance(one, Taken)]
    refused = [one for one in answers if isinstance(one, Shortage)]
    assert (len(passed), len(refused)) == (10, 30)
    assert {one.unit for one in refused} == {Unit.REQUESTS}
    assert all(0 < one.wait_seconds <= 61 for one in refused)
    assert dict(refused[0].headers)["x-ratelimit-remaining-requests"] == "0"


async def test_tokens_are_shared_and_what_was_not_used_is_given_back(valkey: Valkey) -> None:
    async with sharing(valkey, gateways=2) as (one, other):
        first = await spend(one, tokens=800)
        short = await spend(other, tokens=300)
        assert isinstance(first, Taken)
        assert isinstance(short, Shortage)
        assert (short.unit, short.used, short.limit) == (Unit.TOKENS, 800, 1000)

        one.settle(KEY, first, change=-600)
        second = await spend(one, tokens=300)
        third = await spend(other, tokens=500)

    assert isinstance(second, Taken)
    assert isinstance(third, Taken)
    assert dict(third.headers)["x-ratelimit-remaining-tokens"] == "0"


async def test_the_day_counts_apart_from_the_minute(valkey: Valkey) -> None:
    key = ApiKey("daily", b"", tokens_per_day=100)
    async with sharing(valkey) as (tally,):
        taken = await spend(tally, tokens=60, key=key)
        assert isinstance(taken, Taken)
        tally.settle(key, taken, change=+30)
        short = await spend(tally, tokens=20, key=key)

    assert isinstance(short, Shortage)
    assert (short.unit, short.used) == (Unit.TOKENS_A_DAY, 90)
    assert 86_400 - 60 < short.wait_seconds <= 86_400 + 900


async def test_a_dead_valkey_costs_nothing_and_is_found_again(valkey: Valkey) -> None:
    async with sharing(valkey) as (tally,):
        valkey.stop()
        with pytest.raises(Unavailable):
            await tally.charge(KEY, tokens=1)
        assert not tally.is_available
        with pytest.raises(Unavailable):
            # Without a look at the network.
            tally.charge(KEY, tokens=1).send(None)

        valkey.start()
        await until(lambda: tally.is_available)

        assert isinstance(await spend(tally, tokens=1), Taken)


async def test_a_frozen_valkey_is_given_up_on(valkey: Valkey) -> None:
    async with sharing(valkey) as (tally,):
        valkey.processes[0].send_signal(signal.SIGSTOP)
        answers = await asyncio.gather(*(tally.charge(KEY, tokens=1) for _ in range(5)), return_exceptions=True)

    assert [type(one) for one in answers] == [Unavailable] * 5


async def test_a_client_that_leaves_while_it_is_charged_gets_its_tokens_back(valkey: Valkey) -> None:
    async with sharing(valkey) as (tally,):
        leaving = asyncio.ensure_future(tally.charge(KEY, tokens=1000))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        # The batch that brings the correction goes before this one, or with it.
        await spend(tally, tokens=0)

        assert isinstance(await spend(tally, tokens=1000), Taken)


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
async def test_a_gateway_that_stops_is_not_kept_waiting(valkey: Valkey, turns: int) -> None:
    """Whatever is on its way at that moment."""
    tally = Tally(valkey.url, password="secret")
    task = asyncio.ensure_future(tally.run())
    await until(lambda: tally.is_available)
    taken = await spend(tally, tokens=10)
    assert isinstance(taken, Taken)

    tally.settle(KEY, taken, change=-5)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()

    async with asyncio.timeout(30):
        await asyncio.wait([task])
    assert task.cancelled()


async def test_windows_leave_nothing_behind(valkey: Valkey) -> None:
    async with sharing(valkey) as (tally,):
        await spend(tally, tokens=1)
        names = await tally._client.keys("*")
        lives = [await tally._client.ttl(name) for name in names]

    assert sorted(names) == [b"lull:{test/team-a}:" + name for name in (b"day", b"requests", b"tokens")]
    assert all(0 < life <= 86_400 + 1800 for life in lives)


async def test_what_is_too_old_counts_no_more(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    # A window of a second instead of a minute, in four slices.
    monkeypatch.setattr(door, "_CHARGE", door._CHARGE.replace("{60, 60}", "{1, 4}"))
    async with sharing(valkey) as (tally,):
        assert isinstance(await spend(tally, tokens=1000), Taken)
        short = await spend(tally, tokens=1)
        assert isinstance(short, Shortage)
        assert 0 < short.wait_seconds <= 1.25
        await asyncio.sleep(short.wait_seconds)

        again = await spend(tally, tokens=1000)

        assert isinstance(again, Taken)
        assert dict(again.headers)["x-ratelimit-remaining-tokens"] == "0"


async def test_gateways_share_over_http_and_go_on_alone(valkey: Valkey, running: Any) -> None:
    shared = {"valkey_url": valkey.url, "valkey_password": "secret", "keys_required": True}
    async with running(**shared) as one, running(**shared) as other:
        worlds = (one, other)
        for world in worlds:
            put_keys(world, team_a=entry(requestsPerMinute=10))
            world.add_model()
            await wait_keys(world)
            await world.add_engine(answering(10, 5))
            await wait_shared(world)

        answers = [await status(worlds[turn % 2]) for turn in range(20)]
        valkey.stop()
        alone = [await status(one) for _ in range(10)]

    assert sorted(answers) == [200] * 10 + [429] * 10
    # Five of the ten were let go here.
    assert alone == [200] * 5 + [429] * 5


async def wait_shared(world: World) -> None:
    async with asyncio.timeout(30):
        while True:
            async with world.session.get(f"{world.admin}/metrics") as response:
                if "lull_gateway_limits_shared 1.0" in await response.text():
                    return
            await asyncio.sleep(0.05)


async def status(world: World) -> int:
    async with ask(world) as response:
        await response.read()
        answered: int = response.status
        return answered


async def test_a_wrong_password_is_like_no_valkey(valkey: Valkey) -> None:
    tally = Tally(valkey.url, password="wrong")
    task = asyncio.ensure_future(tally.run())
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.wait([task])

    assert not tally.is_available
