"""Several processes as one engine: the leader waits until all have joined, and a member until its leader is there.

As in vLLM, nobody watches the others afterwards: the leader finds out that one is gone when it next needs it, and a
member that its leader is gone never.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

_log = logging.getLogger("enginesim")
_RETRY_SECONDS = 0.5
_WHOLE = b"whole\n"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stands in its group."""

    nodes: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29501
    headless: bool = False
    timeout: float = 1800.0
    """Seconds in which everybody must have joined."""


@asynccontextmanager
async def leading(place: Place, on_loss: Callable[[], None]) -> AsyncIterator[None]:
    """Be the leader: enter when every member has joined, and hear of each that is lost; TimeoutError where one stays away."""
    members: dict[str, asyncio.StreamWriter] = {}
    whole = asyncio.Event()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            rank = (await reader.readline()).decode().strip()
            members[rank] = writer
            _log.info("member %s joined", rank)
            if len(members) == place.nodes - 1:
                whole.set()
            with suppress(ConnectionError):
                await reader.read()
            _log.info("member %s is gone", rank)
            if members.get(rank) is writer:
                del members[rank]
                if whole.is_set():
                    on_loss()
        finally:
            writer.close()

    server = await asyncio.start_server(meet, port=place.port)
    try:
        async with asyncio.timeout(place.timeout):
            await whole.wait()
        for writer in members.values():
            writer.write(_WHOLE)
        yield
    finally:
        server.close()
        remaining = [*members.values()]
        members.clear()
        for writer in remaining:
            writer.close()


@asynccontextmanager
async def joining(place: Place) -> AsyncIterator[None]:
    """Be a member: enter when the group is whole; ConnectionError where the leader left before, TimeoutError where none came."""
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(place.timeout):
            reader, writer = await _connect(place)
            # Its end is all that the leader sees of a member's.
            stack.callback(writer.close)
            writer.write(f"{place.rank}\n".encode())
            if await reader.readline() != _WHOLE:
                raise ConnectionResetError(f"the leader at {place.address}:{place.port} went away")
        yield


async def _connect(place: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            return await asyncio.open_connection(place.address, place.port)
        except OSError as error:
            # A name that nobody has yet is as good as a port at which nobody listens.
            _log.info("waiting for the leader: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)
