"""Connections to engines, and how those end that had no user yet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from lull.api.llmdeployment import Key
from lull.core.routing import Endpoint
from lull.gateway.engines import Engines

if TYPE_CHECKING:
    import pytest

    from lull.gateway.engines import Connection, Headers


class User:
    """Notes the last that it was told."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[str] = asyncio.Queue()

    def connected(self, connection: Connection) -> None:
        connection.send(self, b"POST / HTTP/1.1\r\n\r\n", b"")

    def unreachable(self, detail: str) -> None:
        self.told.put_nowait(detail)

    def head(self, status: int, headers: Headers, length: int | None) -> None: ...

    def body(self, data: bytes) -> None: ...

    def complete(self) -> None: ...

    def lost(self, detail: str) -> None:
        self.told.put_nowait(detail)


async def test_a_connection_that_ends_before_anybody_has_it_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def connect_and_be_late(*arguments: Any, **options: Any) -> Any:
        made = await connect(*arguments, **options)
        while not made[0].is_closing():  # noqa: ASYNC110  nobody else is told
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.01)
        return made

    monkeypatch.setattr(loop, "create_connection", connect_and_be_late)

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        engines, user = Engines(connect_seconds=1), User()
        engines.take(Endpoint("uid", "pod", Key("default", "llama"), "127.0.0.1", port, ready=True), user)

        async with asyncio.timeout(5):
            assert "closed" in await user.told.get()
        await engines.close()
