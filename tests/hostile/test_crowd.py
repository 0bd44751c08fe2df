"""A crowd at the door: the gateway as a process of its own, with its memory measured by the system."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.hostile.engines import WHOLE, RawEngine, chunk, saying
from tests.hostile.raw import say
from tests.hostile.spellings import chat, post

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAT = post(chat("llama"))
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n"
CROWD = 10_000
"""As many as the usual limit of open files allows on both sides; `lull gateway` takes 100,000."""
MIB = 1 << 20


class Gateway:
    def __init__(self, process: subprocess.Popen[bytes], port: int, admin_port: int) -> None:
        self.process = process
        self.port = port
        self.admin_port = admin_port

    @property
    def memory(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    async def is_well(self) -> bool:
        """Its probe and a client's request are answered."""
        probe, heard = await asyncio.gather(
            say(self.admin_port, b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", patience=60),
            say(self.port, CHAT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1), patience=60),
        )
        return probe.statuses == heard.statuses == (200,)


@contextmanager
def gateway_in_front_of(
    engine: RawEngine, folder: Path, *, files: int = 0, keys: str = "", **settings: Any
) -> Iterator[Gateway]:
    ports = _free_ports(2)
    config = folder / "gateway.yaml"
    config.write_text(f"models: [{{name: llama, endpoints: ['http://127.0.0.1:{engine.port}']}}]\n{keys}")
    environment = {
        **os.environ,
        "LULL_PORT": str(ports[0]),
        "LULL_ADMIN_PORT": str(ports[1]),
        "LULL_LAME_DUCK_SECONDS": "0",
        "LULL_DRAIN_SECONDS": "1",
        "LULL_LOG_LEVEL": "error",
        **{f"LULL_{name.upper()}": str(value) for name, value in settings.items()},
    }
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = (files or hard, hard)
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lull", "gateway", "--config", str(config)],
            env=environment,
            stdout=log,
            stderr=log,
            # No other thread runs here, and `ulimit` in a shell would be one process more to end.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit),  # noqa: PLW1509
        )
    try:
        yield Gateway(process, *ports)
    finally:
        process.terminate()
        process.wait()


async def until_listening(gateway: Gateway) -> None:
    while True:
        assert gateway.process.poll() is None
        try:
            await say(gateway.port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return


async def until_ready(gateway: Gateway) -> None:
    while True:
        assert gateway.process.poll() is None
        try:
            if await gateway.is_well():
                return
        except OSError:
            await asyncio.sleep(0.1)


def connect(stack: ExitStack, port: int, sent: bytes) -> socket.socket:
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
    connection.sendall(sent)
    return connection


@pytest.fixture
def many_files() -> Iterator[int]:
    """As many open files as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_crowd_of_idle_connections_costs_little_and_keeps_nobody_out(tmp_path: Path, many_files: int) -> None:
    crowd = min(CROWD, many_files - 1000)
    async with RawEngine(saying(WHOLE)) as engine:
        with gateway_in_front_of(engine, tmp_path, head_seconds=600) as gateway, ExitStack() as stack:
            await until_ready(gateway)
            before = gateway.memory

            for number in range(crowd):
                # Most say nothing at all; some have stopped in the middle of a request, some have had an answer.
                connect(stack, gateway.port, {0: HEAD, 1: CHAT, 2: CHAT[:-3]}.get(number % 20, b""))
            well = await gateway.is_well()
            each = (gateway.memory - before) / crowd

            print(f"{crowd} connections, {each:.0f} bytes each")
            assert well
            assert each < 16 * 1024


async def test_whoever_comes_when_all_places_are_taken_is_turned_away(tmp_path: Path) -> None:
    async with RawEngine(saying(WHOLE)) as engine:
        with gateway_in_front_of(engine, tmp_path, max_connections=50) as gateway:
            await until_ready(gateway)
            with ExitStack() as stack:
                inside = [connect(stack, gateway.port, b"") for _ in range(50)]
                inside[0].sendall(CHAT)
                first = await asyncio.to_thread(inside[0].recv, 100)
                outside = await say(gateway.port, CHAT)

            await until_ready(gateway)

    assert first.startswith(b"HTTP/1.1 200 ")
    assert outside.closed
    assert outside.statuses in {(), (503,)}


async def test_a_gateway_out_of_files_goes_on_with_those_it_has(tmp_path: Path) -> None:
    async with RawEngine(saying(WHOLE)) as engine:
        with gateway_in_front_of(engine, tmp_path, files=128) as gateway:
            await until_ready(gateway)
            with ExitStack() as stack:
                early = connect(stack, gateway.port, CHAT)
                first = await asyncio.to_thread(early.recv, 1000)
                for _ in range(400):
                    connect(stack, gateway.port, b"")
                early.sendall(CHAT)
                second = await asyncio.to_thread(early.recv, 1000)

            await until_ready(gateway)

    assert first.startswith(b"HTTP/1.1 200 ")
    assert second.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 429 ", b"HTTP/1.1 503 "))


async def test_no_attack_makes_it_grow(tmp_path: Path) -> None:
    coded = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    attacks = [
        HEAD + b"X: " + b"x" * MIB,
        HEAD + b"X: y\r\n" * 100_000,
        b"GET /" + b"x" * MIB,
        b"\r\n" * MIB,
        coded + chunk(b" ") * 300_000,
        coded + b"2;" + b"x" * MIB,
        coded + b"0" * MIB,
        coded + b"0\r\n" + b"X: y\r\n" * 100_000,
        HEAD + b"Content-Length: %d\r\n\r\n" % (1 << 40),
        post(b"[" * MIB),
        post(b'{"model":"llama","x":' + b"[" * 1000 + b"]" * 1000 + b"," * MIB),
        post(b'{"model":"llama","x":[' + b"[]," * (MIB // 3) + b"[]]}"),
        post(b'{"model":"%s"}' % (b"x" * MIB)),
        b"GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n" * 5000,
        CHAT * 5000,
        b"\x00" * MIB,
    ]
    async with RawEngine(saying(WHOLE)) as engine:
        with gateway_in_front_of(engine, tmp_path, max_body_bytes=MIB, head_seconds=1, body_seconds=1) as gateway:
            await until_ready(gateway)
            slots = asyncio.Semaphore(8)

            async def attack(sent: bytes) -> None:
                async with slots:
                    await say(gateway.port, sent, quiet=0.05)

            await asyncio.gather(*map(attack, attacks))
            before = gateway.memory
            await asyncio.gather(*(attack(sent) for sent in attacks for _ in range(10)))
            grown = gateway.memory - before

            print(f"grown by {grown / MIB:.1f} MiB")
            assert await gateway.is_well()
            assert grown < 64 * MIB


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
