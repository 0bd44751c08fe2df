"""HTTP of the control path: gateways' `/demand` and engines' admin endpoints. The data path is aiohttp's."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONNECT_SECONDS: Final = 2.0
ANSWER_BYTES: Final = 16 * 1024 * 1024


class Unreachable(Exception):  # noqa: N818  reads as what the peer is
    """The peer did not answer, or not as it should."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content: bytes


class Http:
    """Requests within the cluster; each has a deadline and a bound on its answer."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self, url: str, *, query: dict[str, str], deadline: float) -> bytes:
        """Body of a 200 answer; Unreachable otherwise."""
        answer = await self.ask("GET", url, query=query, deadline=deadline)
        if answer.status != httpx.codes.OK:
            raise Unreachable(f"GET {url}: {answer.status}")
        return answer.content

    async def ask(
        self, method: str, url: str, *, query: dict[str, str] | None = None, body: bytes | None = None, deadline: float
    ) -> Answer:
        """Any whole answer; Unreachable where there is none. A body is JSON."""
        timeout = httpx.Timeout(deadline, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else None
            async with self._client.stream(
                method, url, params=query, content=body, headers=headers, timeout=timeout
            ) as response:
                chunks: list[bytes] = []
                size = 0
                async for chunk in response.aiter_bytes():
                    size += len(chunk)
                    if size > ANSWER_BYTES:
                        raise Unreachable(f"{method} {url}: answer over {ANSWER_BYTES} bytes")
                    chunks.append(chunk)
                return Answer(response.status_code, b"".join(chunks))
        except httpx.HTTPError as error:
            raise Unreachable(f"{method} {url}: {type(error).__name__} {error}") from error


@asynccontextmanager
async def connect() -> AsyncIterator[Http]:
    """A client that goes straight to pods: no proxy of the environment, no redirects."""
    # vLLM closes what was idle for 5 s: a connection that is about that old may be gone by the time it is used.
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=100, keepalive_expiry=3)
    async with httpx.AsyncClient(limits=limits, trust_env=False, follow_redirects=False) as client:
        yield Http(client)
