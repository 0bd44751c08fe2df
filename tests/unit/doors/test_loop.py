"""The event loop: what it took over and gave up is closed once."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import socket
import ssl
from typing import Any

import pytest

from lull.doors.loop import run


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_descriptor_that_was_given_up_is_not_closed_again_under_its_next_owner(*, is_cancelled: bool) -> None:
    run(_give_up(is_cancelled=is_cancelled))


async def _give_up(*, is_cancelled: bool) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    taken = await _connect(listener.getsockname())
    number = taken.fileno()
    if not is_cancelled:
        # Nobody accepted it, so it is reset.
        listener.close()
        select.select([taken], [], [])

    connecting = asyncio.ensure_future(_speak_tls(taken))
    if is_cancelled:
        await asyncio.sleep(0.05)
        connecting.cancel()
    with pytest.raises(asyncio.CancelledError if is_cancelled else ConnectionResetError):
        await connecting
    for _ in range(100):
        if not _is_open(number):
            break
        await asyncio.sleep(0.01)
    following = [socket.socket() for _ in range(64)]
    assert number in [one.fileno() for one in following]
    del taken, connecting
    gc.collect()

    assert all(_is_open(one.fileno()) for one in following)
    for one in following:
        one.close()
    listener.close()


async def _connect(address: Any) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, address)
    return made


async def _speak_tls(made: socket.socket) -> None:
    context = ssl.create_default_context()
    await asyncio.get_running_loop().create_connection(
        asyncio.Protocol, sock=made, ssl=context, server_hostname="localhost"
    )


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
