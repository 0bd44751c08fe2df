"""A gateway process as far as its supervisor knows one, made of the standard library alone: it starts at once.

A client's GET /slow is answered only after the process was told to stop; GET /hold counts as held from then on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
from urllib.parse import parse_qs, urlsplit


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", type=int, required=True)
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--admin", required=True)
    options = parser.parse_args()
    stopping, news = asyncio.Event(), asyncio.Event()
    busy: set[asyncio.Task[None]] = set()
    boot = os.urandom(8).hex()
    served = held = 0
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served, held
        task = asyncio.current_task()
        assert task is not None
        busy.add(task)
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
        if path == b"/slow":
            await stopping.wait()
            await asyncio.sleep(0.1)
        if path == b"/hold":
            held += 1
            news.set()
        served += 1
        answer(writer, 200, str(os.getpid()))
        busy.discard(task)

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = urlsplit((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode())
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        if target.path == "/metrics":
            answer(
                writer,
                200,
                "# HELP served_total Requests.\n# TYPE served_total counter\n"
                f"served_total {served}.0\n# HELP held Requests.\n# TYPE held gauge\nheld {held}.0\n",
            )
        elif target.path == "/demand":
            if query.get("after") == str(held) and query.get("boot") == boot:
                news.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), float(query.get("wait", "0")))
            service = {
                "finished": served,
                "met": served,
                "missed": 0,
                "reading": 0.5,
                "firstToken": {"80": served},
                "perToken": {},
                "whole": {},
            }
            model = {
                "held": held,
                "heldBytes": held,
                "inFlight": 0,
                "arrived": served,
                "sinceLast": 1.0,
                "service": service,
            }
            answer(writer, 200, json.dumps({"boot": boot, "sequence": held, "models": {"ns/llama": model}}))
        elif target.path == "/readyz" and stopping.is_set():
            answer(writer, 503, "stopping")
        else:
            answer(writer, 200, "ok")

    def answer(writer: asyncio.StreamWriter, status: int, body: str) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()

    door = await asyncio.start_server(serve, sock=socket.socket(fileno=options.listen))
    await asyncio.start_unix_server(tell, options.admin)
    await stopping.wait()
    door.close()
    await asyncio.gather(*busy)


asyncio.run(main())
