"""Engines of several processes: how they come together, and what they do not see of each other's end."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError, ClientSession

from images.enginesim import groups
from images.enginesim.groups import Place, joining, leading
from images.enginesim.options import parse_options
from tests.fakes.ports import free_port

_ROOT = Path(__file__).parents[3]


def test_takes_vllms_flags_for_several_nodes() -> None:
    alone = parse_options(["serve", "m"], {}).place
    several = ["--nnodes", "2", "--node-rank", "1", "--master-addr", "leader"]
    worker = parse_options(["serve", "m", *several, "--headless", "--distributed-timeout-seconds", "60"], {}).place

    assert (alone.nodes, alone.headless) == (1, False)
    assert worker == Place(nodes=2, rank=1, address="leader", headless=True, timeout=60)


async def test_a_leader_gives_up_on_a_member_that_stays_away() -> None:
    with pytest.raises(TimeoutError):
        async with leading(Place(nodes=2, port=free_port(), timeout=0.05), lambda: None):
            pass


async def test_a_member_gives_up_on_a_leader_that_never_comes() -> None:
    with pytest.raises(TimeoutError):
        async with joining(Place(nodes=2, rank=1, port=free_port(), timeout=0.05)):
            pass


async def test_a_member_that_comes_back_before_the_group_is_whole_is_no_loss() -> None:
    place = Place(nodes=3, port=free_port(), timeout=5)
    lost: list[bool] = []

    leader = asyncio.create_task(_lead_until_whole(place, lost))
    _, early = await groups._connect(place)
    early.write(b"1\n")
    early.close()
    members = [asyncio.create_task(_join_for_good(replace(place, rank=rank))) for rank in (1, 2)]
    await leader
    for member in members:
        member.cancel()
    await asyncio.wait(members)

    assert lost == []


async def test_a_dead_member_shows_at_the_next_request_and_a_dead_leader_never() -> None:
    async with _pair() as (leader, member, url), ClientSession(url) as client:
        await _until_healthy(client)
        served = await client.post("/v1/completions", json={"prompt": "hi", "max_tokens": 2})

        member.kill()
        await member.wait()
        idle = await client.get("/health")
        broken = await client.post("/v1/completions", json={"prompt": "hi", "max_tokens": 2})
        code = await leader.wait()

    assert (served.status, idle.status, broken.status, code) == (200, 200, 500, 0)


async def test_a_member_stays_when_its_leader_dies() -> None:
    async with _pair() as (leader, member, url), ClientSession(url) as client:
        await _until_healthy(client)

        leader.kill()
        await leader.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(member.wait(), timeout=0.3)
        member.send_signal(signal.SIGTERM)
        code = await member.wait()

    assert code == 0


async def _lead_until_whole(place: Place, lost: list[bool]) -> None:
    async with leading(place, lambda: lost.append(True)):
        pass


async def _join_for_good(place: Place) -> None:
    async with joining(place):
        await asyncio.Event().wait()


@asynccontextmanager
async def _pair() -> AsyncIterator[tuple[Process, Process, str]]:
    port, master_port = free_port(), free_port()
    common = ["sim", "--host", "127.0.0.1", "--nnodes", "2", "--master-port", str(master_port)]
    leader = await _start([*common, "--port", str(port), "--node-rank", "0", "--sim-death-delay", "0.1"])
    member = await _start([*common, "--node-rank", "1", "--headless"])
    try:
        yield leader, member, f"http://127.0.0.1:{port}"
    finally:
        for process in (leader, member):
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _start(arguments: list[str]) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "images.enginesim", "serve", *arguments),
        cwd=_ROOT,
        env={**os.environ},
        stdout=DEVNULL,
        stderr=DEVNULL,
    )


async def _until_healthy(client: ClientSession) -> None:
    for _ in range(400):
        try:
            if (await client.get("/health")).status == 200:
                return
        except ClientConnectionError:
            pass
        await asyncio.sleep(0.05)
    raise AssertionError("the pair did not start")
