"""Which adapters each endpoint has: its engine is asked, as nobody else knows for sure.

One watcher for each ready endpoint of an LLMDeployment that lists adapters; the others cost nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import aiohttp
import structlog

from lull.core.adapters import parse_loaded
from lull.wire.openai import PATH_MODELS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lull.api.llmdeployment import Key
    from lull.core.routing import Candidate
    from lull.gateway.directory import Directory

STEADY_SECONDS: Final = 5.0
MISSING_SECONDS: Final = 1.0
"""While an adapter that is listed is not there yet."""
WAITED_SECONDS: Final = 0.2
"""While somebody waits for one that is not there."""

_ANSWER_SECONDS: Final = 5.0
_ANSWER_BYTES: Final = 4 << 20
_ASKED_AT_ONCE: Final = 32


class Residency:
    """Keeps the candidates' adapters up to date."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        directory: Directory,
        *,
        list_waited: Callable[[Key], Collection[str]],
    ) -> None:
        """`list_waited`: adapters of an LLMDeployment that requests are held for."""
        self._session = session
        self._directory = directory
        self._list_waited = list_waited
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._nudges: dict[str, asyncio.Event] = {}
        self._changed: set[Key] = set()
        self._rung = asyncio.Event()
        self._slots = asyncio.Semaphore(_ASKED_AT_ONCE)
        self._log = structlog.get_logger("lull.gateway")

    def review(self, key: Key) -> None:
        """The spec, an endpoint or a line of an LLMDeployment changed."""
        self._changed.add(key)
        self._rung.set()

    async def run(self) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._rung.wait()
                self._rung.clear()
                while self._changed:
                    self._watch(self._changed.pop(), group)

    def _watch(self, key: Key, group: asyncio.TaskGroup) -> None:
        """Have a watcher for each endpoint that needs one, and make those look that somebody waits for."""
        waited = self._list_waited(key)
        for candidate in self._directory.candidates(key):
            uid = candidate.endpoint.uid
            if uid not in self._watchers and self._is_needed(key, candidate):
                self._nudges[uid] = asyncio.Event()
                self._watchers[uid] = group.create_task(self._follow(key, uid))
            elif uid in self._watchers and any(adapter not in candidate.adapters for adapter in waited):
                self._nudges[uid].set()

    async def _follow(self, key: Key, uid: str) -> None:
        """Ask one engine again and again, for as long as it is needed."""
        nudge = self._nudges[uid]
        try:
            while (candidate := self._directory.find_candidate(key, uid)) and self._is_needed(key, candidate):
                await self._ask(candidate)
                nudge.clear()
                pause = self._pause(key, candidate)
                # Not at once, however often somebody rings: an engine has better things to do.
                await asyncio.sleep(min(pause, WAITED_SECONDS))
                try:
                    async with asyncio.timeout(pause - WAITED_SECONDS):
                        await nudge.wait()
                except TimeoutError:
                    pass
        finally:
            del self._watchers[uid], self._nudges[uid]
            # It may have become ready again since it was looked at.
            self.review(key)

    def _is_needed(self, key: Key, candidate: Candidate) -> bool:
        return candidate.endpoint.ready and bool(self._directory.list_adapters(key))

    def _pause(self, key: Key, candidate: Candidate) -> float:
        if any(adapter not in candidate.adapters for adapter in self._list_waited(key)):
            return WAITED_SECONDS
        is_complete = all(adapter in candidate.adapters for adapter in self._directory.list_adapters(key))
        return STEADY_SECONDS if is_complete else MISSING_SECONDS

    async def _ask(self, candidate: Candidate) -> None:
        """What an engine says it has; what it said last stands where it does not answer."""
        endpoint = candidate.endpoint
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        try:
            async with (
                self._slots,
                self._session.get(endpoint.origin + PATH_MODELS, timeout=timeout, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    return
                content = await response.content.read(_ANSWER_BYTES)
                while len(content) < _ANSWER_BYTES and (chunk := await response.content.read(_ANSWER_BYTES)):
                    content += chunk
            adapters = frozenset(parse_loaded(content))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self._log.debug("adapters not known", endpoint=endpoint.pod, error=str(error))
            return
        self._directory.record_adapters(endpoint.key, endpoint.uid, adapters)
