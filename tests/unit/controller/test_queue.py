"""The keyed queue, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from lull.api.llmdeployment import Key
from lull.controller.queue import KeyedQueue
from lull.doors.kube import Transient

pytestmark = [pytest.mark.looptime]

A, B = Key("default", "a"), Key("default", "b")


@asynccontextmanager
async def working(
    work: Callable[[Key], Awaitable[float | None]], *, workers: int = 2, settle: float = 0.0
) -> AsyncIterator[KeyedQueue]:
    queue = KeyedQueue("test", settle_seconds=settle)
    running = asyncio.ensure_future(queue.run(work, workers=workers, on_alive=lambda _: None))
    try:
        yield queue
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_works_once_for_a_key_that_was_added_many_times() -> None:
    worked: list[Key] = []

    async def work(key: Key) -> None:
        worked.append(key)

    async with working(work) as queue:
        for _ in range(5):
            queue.add(A)
        queue.add(B)
        await asyncio.sleep(1)

    assert worked == [A, B]


async def test_works_once_more_for_a_key_that_came_meanwhile_and_never_twice_at_a_time() -> None:
    spans: list[tuple[float, float]] = []

    async def work(_: Key) -> None:
        began = now()
        await asyncio.sleep(10)
        spans.append((began, now()))

    async with working(work) as queue:
        queue.add(A)
        await asyncio.sleep(1)
        queue.add(A)
        queue.add(A)
        await asyncio.sleep(40)

    assert len(spans) == 2
    assert spans[1][0] >= spans[0][1]


async def test_a_slow_key_does_not_hold_up_another() -> None:
    done: list[tuple[Key, float]] = []

    async def work(key: Key) -> None:
        await asyncio.sleep(100 if key == A else 0)
        done.append((key, now()))

    async with working(work) as queue:
        began = now()
        queue.add(A)
        queue.add(B)
        await asyncio.sleep(1)

    assert [key for key, _ in done] == [B]
    assert done[0][1] - began < 0.1


async def test_comes_back_when_the_work_said_so() -> None:
    at: list[float] = []

    async def work(_: Key) -> float | None:
        at.append(now())
        return 30.0

    async with working(work) as queue:
        queue.add(A)
        await asyncio.sleep(95)

    assert [round(later - at[0]) for later in at] == [0, 30, 60, 90]


async def test_news_come_before_the_time_that_the_work_asked_for() -> None:
    at: list[float] = []

    async def work(_: Key) -> float | None:
        at.append(now())
        return 1000.0

    async with working(work) as queue:
        queue.add(A)
        await asyncio.sleep(5)
        queue.add(A)
        await asyncio.sleep(100)

    assert [round(later - at[0]) for later in at] == [0, 5]


async def test_gathers_what_happens_to_a_key_within_a_while() -> None:
    at: list[float] = []

    async def work(_: Key) -> None:
        at.append(now())

    async with working(work, settle=3.0) as queue:
        for _ in range(5):
            queue.add(A)
            await asyncio.sleep(1)
        await asyncio.sleep(10)

    # The first three together; none waits for ever because others follow.
    assert [round(later - at[0]) for later in at] == [0, 3]


async def test_what_came_during_the_work_settles_too() -> None:
    began: list[float] = []

    async def work(_: Key) -> None:
        began.append(now())
        await asyncio.sleep(10)

    async with working(work, settle=3.0) as queue:
        queue.add(A)
        await asyncio.sleep(5)
        queue.add(A)
        await asyncio.sleep(30)

    assert [round(later - began[0]) for later in began] == [0, 13]


async def test_backs_off_further_with_each_failure_and_forgets_them_after_a_success() -> None:
    at: list[float] = []

    async def work(_: Key) -> None:
        at.append(now())
        if len(at) < 6:
            raise Transient("busy")

    async with working(work) as queue:
        queue.add(A)
        await asyncio.sleep(200)
        assert len(at) == 6
        pauses = [later - earlier for earlier, later in pairwise(at)]
        assert all(0.5 * 0.2 * 2**index <= pause <= 0.2 * 2**index + 0.1 for index, pause in enumerate(pauses))


async def test_a_bug_in_one_key_stops_neither_the_others_nor_the_queue() -> None:
    worked: list[Key] = []

    async def work(key: Key) -> None:
        worked.append(key)
        if key == A:
            raise KeyError("bug")

    async with working(work, workers=1) as queue:
        queue.add(A)
        queue.add(B)
        await asyncio.sleep(5)

    assert worked[:2] == [A, B]
    assert worked.count(A) > 1


async def test_every_worker_gives_signs_of_life_while_there_is_nothing_to_do() -> None:
    alive: list[str] = []
    queue = KeyedQueue("test")

    async def work(_: Key) -> None:
        raise AssertionError("nothing was added")

    running = asyncio.ensure_future(queue.run(work, workers=2, on_alive=alive.append))
    await asyncio.sleep(100)
    running.cancel()

    assert alive.count("test worker 0") >= 3
    assert alive.count("test worker 1") >= 3
