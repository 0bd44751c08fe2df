"""Fetchers that share a folder: processes of their own, one of them killed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from lull.fetcher.lock import Lock, Lost, Progress
from lull.fetcher.options import Options
from tests.fakes import gate as gates
from tests.fakes import hub as hubs
from tests.fakes.fetching import CHOSEN, FILES, WEIGHTS, Command, Journal, contents, partials
from tests.fakes.gate import Gate
from tests.fakes.hub import Hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

OPTIONS = Options(beat_every=0.1, stale_after=1.5, report_every=0.1, patience=5.0, silence=3.0)
SCRIPT = """
import asyncio, json, sys
from pathlib import Path
from lull.fetcher.fetch import fetch
from lull.fetcher.options import Endpoints, Options
from lull.fetcher.sources import parse_source

options = Options(
    Endpoints(hub=sys.argv[2]), beat_every=0.1, stale_after=1.5, report_every=0.1, patience=5.0, silence=3.0
)
def log(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
asyncio.run(fetch(parse_source("hf://acme/tiny"), Path(sys.argv[1]), options, log))
"""


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    """A hub behind a way that takes two seconds for the weights."""
    async with hubs.serve(Hub(files=dict(FILES))) as hub, gates.serve(Gate(hub.endpoint, pace=0.025)) as gate:
        yield gate


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models"


class Run:
    """A fetcher in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, object]] = []

    @classmethod
    async def start(cls, target: Path, gate: Gate) -> Run:
        command = (sys.executable, "-c", SCRIPT, str(target), gate.endpoint)
        return cls(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE))

    async def read_until(self, event: str) -> dict[str, object]:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        pytest.fail(f"no {event} in {self.lines}")

    async def end(self) -> int:
        assert self._process.stdout is not None
        rest = await self._process.stdout.read()
        self.lines += [json.loads(line) for line in rest.splitlines()]
        return await self._process.wait()

    async def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        await self.end()

    def said(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.lines if line["event"] == event]


async def test_one_of_two_fetches_and_the_other_waits(target: Path, gate: Gate) -> None:
    first = await Run.start(target, gate)
    await first.read_until("fetching")
    second = await Run.start(target, gate)

    assert [await first.end(), await second.end()] == [0, 0]
    assert contents(target) == CHOSEN
    assert len(gate.asked("model.safetensors")) == 1
    assert second.said("fetching") == []
    waiting = [line for line in second.said("waiting") if line["present"]]
    assert waiting
    assert {line["bytes"] for line in waiting} <= {0, sum(map(len, CHOSEN.values()))}
    assert second.said("complete")[0]["received"] == 0


async def test_the_work_of_one_that_was_killed_is_taken_over_and_continued(target: Path, gate: Gate) -> None:
    first = await Run.start(target, gate)
    while not any(partial.stat().st_size > 1_000_000 for partial in partials(target)):
        await first.read_until("progress")
    second = await Run.start(target, gate)
    await second.read_until("waiting")

    await first.kill()

    assert await second.end() == 0
    assert contents(target) == CHOSEN
    offsets = [headers["Range"] for headers in gate.asked("model.safetensors") if "Range" in headers]
    assert len(offsets) == 1
    assert int(offsets[0][6:-1]) > 1_000_000
    assert 0 < int(str(second.said("complete")[0]["received"])) < len(WEIGHTS) - 1_000_000


async def test_one_that_comes_later_continues_what_was_killed(target: Path, gate: Gate) -> None:
    first = await Run.start(target, gate)
    while not any(partial.stat().st_size > 1_000_000 for partial in partials(target)):
        await first.read_until("progress")
    await first.kill()

    second = await Run.start(target, gate)

    assert await second.end() == 0
    assert contents(target) == CHOSEN
    assert len([headers for headers in gate.asked("model.safetensors") if "Range" in headers]) == 1


async def test_one_that_gives_up_lets_the_next_in_at_once(target: Path, gate: Gate) -> None:
    gate.statuses = [404]
    first = await Run.start(target, gate)
    assert await first.end() == 1

    second = await Run.start(target, gate)

    assert await second.end() == 0
    assert second.said("waiting") == []


async def test_two_that_want_different_revisions_take_turns(target: Path, gate: Gate) -> None:
    commands = [
        Command(f"hf://acme/tiny@{revision}", "--to", str(target), HF_ENDPOINT=gate.endpoint)
        for revision in ("main", hubs.COMMIT)
    ]

    results = await asyncio.gather(*(command.run() for command in commands))

    assert [code for code, _ in results] == [0, 0]
    assert contents(target) == CHOSEN
    assert len(gate.asked("model.safetensors")) == 1


async def test_an_unwritable_target_has_a_code_of_its_own(gate: Gate) -> None:
    code, lines = await Command("hf://acme/tiny", "--to", "/sys/models", HF_ENDPOINT=gate.endpoint).run()

    assert code == 14
    assert lines[-1].startswith("Cannot write to /sys/models")
    assert gate.requests == []


async def test_a_mounted_model_is_only_looked_at(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(FILES["config.json"])
    arguments = ("pvc://claim/tiny", "--to", str(tmp_path))

    assert (await Command(*arguments).run())[0] == 0
    code, lines = await Command(*arguments, "--check", '{"tensorParallel": 64}').run()

    assert code == 13
    assert "spec.parallelism.tensor is 64" in lines[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


async def test_a_mounted_folder_without_a_model_is_said_to_be_none(tmp_path: Path) -> None:
    code, lines = await Command("file:///models/tiny", "--to", str(tmp_path)).run()

    assert code == 10
    assert "holds no config.json" in lines[-1]


def lock(folder: Path) -> Lock:
    return Lock(folder, OPTIONS, Progress(), Journal())


def never() -> bool:
    return False


async def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    holders: list[int] = []
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        own = lock(tmp_path)
        assert await own.acquire(never)
        holders.append(number)
        most = max(most, len(holders))
        await asyncio.sleep(0.05)
        holders.remove(number)
        own.release()

    await asyncio.gather(*(work(number) for number in range(8)))

    assert most == 1
    assert len(list(tmp_path.glob("lock.*"))) == 1


async def test_a_holder_that_was_only_asleep_finds_its_lock_taken(tmp_path: Path) -> None:
    asleep, awake = lock(tmp_path), lock(tmp_path)
    await asleep.acquire(never)

    assert await awake.acquire(never)
    with pytest.raises(Lost):
        await asleep.beat()
    asleep.release()

    third = asyncio.ensure_future(lock(tmp_path).acquire(never))
    beating = asyncio.ensure_future(awake.beat())
    await asyncio.sleep(2 * OPTIONS.stale_after)
    assert not third.done()
    beating.cancel()
    awake.release()
    assert await third


async def test_who_waits_stops_when_the_work_is_done(tmp_path: Path) -> None:
    await lock(tmp_path).acquire(never)
    journal = Journal()

    answers = iter([False, True])

    assert not await Lock(tmp_path, OPTIONS, Progress(), journal).acquire(lambda: next(answers))
    assert set(journal.events) == {"waiting"}


async def test_a_lock_that_was_made_and_never_written_is_taken(tmp_path: Path) -> None:
    (tmp_path / "lock.7").touch()

    assert await lock(tmp_path).acquire(never)
    assert [path.name for path in tmp_path.iterdir()] == ["lock.8"]
