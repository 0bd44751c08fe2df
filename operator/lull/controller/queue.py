"""A queue of keys: each waits at most once, is worked on by one worker at a time, and backs off on its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from lull.doors import clock, metrics
from lull.doors.kube import Refused, Transient
from lull.doors.retrying import backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lull.api.llmdeployment import Key

    Work = Callable[[Key], Awaitable[float | None]]

log = structlog.get_logger(__name__)

_BEAT_SECONDS: Final = 30.0
_TRANSIENT_MOST: Final = 30.0
_BUG_FIRST: Final = 1.0
_BUG_MOST: Final = 300.0


class KeyedQueue:
    """Level-triggered work: a key says that something changed, never what.

    The work returns after how many seconds the key is due again, or None. A key that is added while it is worked
    on is worked on once more afterwards.
    """

    def __init__(self, name: str, *, settle_seconds: float = 0.0) -> None:
        """Let a key wait `settle_seconds` for what else happens to it, which is then worked on together."""
        self._name = name
        self._settle_seconds = settle_seconds
        # Found once: a thousand models are looked at a thousand times a second.
        self._depth = metrics.WORKQUEUE_DEPTH.labels(name)
        self._waited = metrics.WORKQUEUE_SECONDS.labels(name)
        self._took = metrics.WORK_SECONDS.labels(name)
        self._done = metrics.WORK.labels(name, "ok")
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._settling: dict[Key, asyncio.TimerHandle] = {}
        self._waiting: dict[Key, float] = {}
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}

    def add(self, key: Key) -> None:
        """Work on the key as soon as it has settled and a worker is free."""
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting and key not in self._settling:
            self._cancel_timer(key)
            if self._settle_seconds:
                loop = asyncio.get_running_loop()
                self._settling[key] = loop.call_later(self._settle_seconds, self._admit, key)
            else:
                self._admit(key)

    async def run(self, work: Work, *, workers: int, on_alive: Callable[[str], None]) -> None:
        """Work for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(workers):
                    group.create_task(self._run_worker(work, f"{self._name} worker {number}", on_alive))
        finally:
            for timer in (*self._timers.values(), *self._settling.values()):
                timer.cancel()

    async def _run_worker(self, work: Work, worker: str, on_alive: Callable[[str], None]) -> None:
        while True:
            on_alive(worker)
            try:
                async with asyncio.timeout(_BEAT_SECONDS):
                    key = await self._ready.get()
            except TimeoutError:
                continue
            await self._run_one(work, key)

    async def _run_one(self, work: Work, key: Key) -> None:
        began = clock.monotonic()
        self._waited.observe(began - self._waiting.pop(key))
        self._depth.set(len(self._waiting))
        self._running.add(key)
        try:
            delay = await self._attempt(work, key)
        finally:
            self._running.discard(key)
            self._took.observe(clock.monotonic() - began)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        elif delay is not None:
            self._timers[key] = asyncio.get_running_loop().call_later(delay, self._admit, key)

    async def _attempt(self, work: Work, key: Key) -> float | None:
        """Work on the key once; the seconds after which it is due again."""
        try:
            delay = await work(key)
        except (Transient, Refused) as error:
            failures = self._count_failure(key)
            delay = backoff(failures, most=_TRANSIENT_MOST)
            metrics.WORK.labels(self._name, "transient").inc()
            log.warning("will retry", queue=self._name, key=str(key), error=str(error), after=round(delay, 1))
        except Exception:
            # The supervised loop: a bug that one object meets must not stop the others.
            delay = backoff(self._count_failure(key), first=_BUG_FIRST, most=_BUG_MOST)
            metrics.WORK.labels(self._name, "bug").inc()
            log.exception("bug", queue=self._name, key=str(key), after=round(delay, 1))
        else:
            self._failures.pop(key, None)
            self._done.inc()
        return delay

    def _count_failure(self, key: Key) -> int:
        self._failures[key] = self._failures.get(key, 0) + 1
        return self._failures[key]

    def _admit(self, key: Key) -> None:
        self._settling.pop(key, None)
        self._timers.pop(key, None)
        self._waiting[key] = clock.monotonic()
        self._ready.put_nowait(key)
        self._depth.set(len(self._waiting))

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
