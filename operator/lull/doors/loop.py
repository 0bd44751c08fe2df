"""The event loop of the gateway and the operator: uvloop's, which must not close what it has given up twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import uvloop

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Loop(uvloop.Loop):
    """Takes a socket over for good, as asyncio's own loops do, whether or not there is a connection in the end.

    uvloop 0.23 closes the descriptor of a connection that was reset before TLS said its first word, and leaves it to
    the socket, too. That closes it once more when it is collected: by then it may be a client's. MagicStack/uvloop#740
    mended it for attempts that are cancelled. aiohttp connects in this way.
    """

    async def create_connection(  # type: ignore[override]  # every form that there is, passed on as it is
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *address: Any,  # noqa: ANN401  asyncio's own types of it are eight
        sock: socket.socket | None = None,
        **options: Any,  # noqa: ANN401  as above
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """As asyncio's."""
        try:
            made = await super().create_connection(protocol_factory, *address, sock=sock, **options)
        except BaseException:
            if sock is not None:
                sock.detach()
            raise
        return cast("tuple[asyncio.BaseTransport, asyncio.BaseProtocol]", made)


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` with this loop."""
    return uvloop.run(main, loop_factory=Loop)
