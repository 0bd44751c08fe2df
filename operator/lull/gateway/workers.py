"""One gateway process per core behind one port: who starts them, watches them and speaks for them.

Each has a listening socket of its own on the port, and the kernel gives every connection to one of them by its
addresses. The sockets are opened here and outlive the processes: connections that wait for one that died get its
successor. All that the admin port says is put together from what each of them says at a Unix socket.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from lull.core.latencies import add_counts
from lull.core.reading import join_shares
from lull.doors import clock
from lull.doors.merging import Exposition, Processes, keep_counts, merge, parse_exposition, render_exposition
from lull.doors.serving import listen
from lull.gateway.admin import parse_poll, route
from lull.gateway.server import bind, catch_signals

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Iterable, Sequence

    from lull.settings import GatewaySettings

STEADY_SECONDS: Final = 60.0
"""One that lived for so long did not die of how it was started."""
FIRST_PAUSE: Final = 1.0
"""Before the second restart in a row; the first is at once, each further one waits twice as long."""
LONGEST_PAUSE: Final = 30.0
PATIENCE: Final = 3.0
"""A process that is away for longer gives its share of the connections to the others."""
HOPELESS_DEATHS: Final = 5
"""Deaths in a row after which the pod says that it is not alive."""
CHECK_SECONDS: Final = 10.0
MISSED_CHECKS: Final = 6
"""A process that says nothing for so many checks is killed: as long as the kubelet waits for one without others."""
STARTING_CHECKS: Final = 30
"""For one that starts: where several do with a fraction of a core, it takes minutes."""
ANSWER_SECONDS: Final = 5.0
GRACE_SECONDS: Final = 10.0
"""Beyond the time that a process has to stop, until it is killed."""

_CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")


class Silent(Exception):  # noqa: N818  what is found, not a failure of ours
    """A process does not answer at its Unix socket."""


@dataclass(eq=False, slots=True)
class Worker:
    """One of the processes, or the place for it."""

    index: int
    admin: Path
    session: aiohttp.ClientSession
    listener: socket.socket | None = None
    process: asyncio.subprocess.Process | None = None
    deaths: int = 0
    """In a row, each soon after the start."""
    is_heard: bool = False
    """It has answered since it was started."""
    counts: Exposition = field(default_factory=dict)
    """What it counted, as last heard."""

    async def ask(self, path: str, *, query: dict[str, str] | None = None, seconds: float = ANSWER_SECONDS) -> bytes:
        """The body of a 200; Silent for everything else."""
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self.session.get(f"http://worker{path}", params=query, timeout=timeout) as response:
                body = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Silent(f"process {self.index}: {error or 'no answer'}") from error
        if response.status != 200:
            raise Silent(f"process {self.index}: {body.decode(errors='replace').strip()}")
        return body


def count_workers(wanted: int) -> int:
    """Processes to start: as many as are wanted, or one for each core that this one may use."""
    if wanted:
        return wanted
    try:
        allowed = parse_cpu_max(_CPU_MAX.read_text())
    except OSError:
        allowed = None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if allowed is None else min(cores, allowed)


def parse_cpu_max(text: str) -> int | None:
    """Cores that a control group allows, a part of one as one; None where it sets no limit."""
    quota, _, period = text.partition(" ")
    return None if quota == "max" else max(1, ceil(int(quota) / int(period)))


async def run(settings: GatewaySettings, command: Sequence[str], count: int) -> None:
    """Keep processes running until SIGTERM or SIGINT, then let each finish what it has."""
    stop = asyncio.Event()
    catch_signals(stop)
    await supervise(settings, command, count, stop=stop)


async def supervise(settings: GatewaySettings, command: Sequence[str], count: int, *, stop: asyncio.Event) -> None:
    """Run `command` so many times, each with a socket for clients and a path for the admin socket, until told to stop."""
    async with _assemble(settings, command, count) as supervisor:
        admin = web.AppRunner(_build_admin(supervisor), access_log=None, shutdown_timeout=1.0)
        async with listen(admin, settings.admin_port), asyncio.TaskGroup() as group:
            keepers = [group.create_task(supervisor.keep(worker)) for worker in supervisor.workers]
            await stop.wait()
            supervisor.stop()
            await asyncio.wait(keepers)


class Supervisor:
    """The processes and what they say together."""

    def __init__(self, settings: GatewaySettings, command: Sequence[str], workers: Sequence[Worker]) -> None:
        self.workers = workers
        self._settings = settings
        self._command = command
        self._stopping = asyncio.Event()
        self._retired: Exposition = {}
        """What processes counted that are no more."""
        self._processes = Processes()
        self._log = structlog.get_logger("lull.gateway")

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def running(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.process is not None]

    def stop(self) -> None:
        """Tell all to finish. The sockets are theirs alone from here on: closing them refuses whoever comes late."""
        self._stopping.set()
        for worker in self.workers:
            if worker.process is not None:
                worker.process.terminate()
            _close(worker)

    async def keep(self, worker: Worker) -> None:
        """Start a process again and again, until told to stop."""
        while not self.is_stopping:
            began = clock.monotonic()
            code = await self._run(worker)
            if self.is_stopping:
                return
            worker.deaths = 1 if clock.monotonic() - began >= STEADY_SECONDS else worker.deaths + 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (worker.deaths - 2)) if worker.deaths > 1 else 0.0
            if pause > PATIENCE:
                _close(worker)
            self._processes.restarts += 1
            self._retired = merge((self._retired, keep_counts(worker.counts)))
            worker.counts = {}
            self._log.error("process died", worker=worker.index, code=code, deaths=worker.deaths, restart_in=pause)
            try:
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    async def _run(self, worker: Worker) -> int:
        """One life of a process: its exit code."""
        if worker.listener is None:
            worker.listener = bind(self._settings.port, shared=True)
        worker.admin.unlink(missing_ok=True)
        descriptor = worker.listener.fileno()
        # The other end of its standard input is here: a process whose supervisor was killed sees it end, and stops.
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *("--worker", str(worker.index), "--listen", str(descriptor), "--admin", str(worker.admin)),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(descriptor,),
        )
        worker.process = process
        if self.is_stopping:
            process.terminate()
        try:
            async with asyncio.TaskGroup() as group:
                watches = [group.create_task(self._watch(worker)), group.create_task(self._limit(process))]
                code = await process.wait()
                for watch in watches:
                    watch.cancel()
            return code
        finally:
            worker.process = None
            worker.is_heard = False
            _kill(process)

    async def _watch(self, worker: Worker) -> None:
        """Kill a process that answers nothing any more."""
        missed, allowed = 0, STARTING_CHECKS
        while missed < allowed:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await worker.ask("/healthz")
                worker.is_heard = True
                missed, allowed = 0, MISSED_CHECKS
            except Silent as error:
                missed += 1
                self._log.warning("process not heard", worker=worker.index, missed=missed, error=str(error))
        if worker.process is not None:
            _kill(worker.process)

    async def _limit(self, process: asyncio.subprocess.Process) -> None:
        """Kill a process that does not stop when it is told to."""
        await self._stopping.wait()
        await asyncio.sleep(self._settings.lame_duck_seconds + self._settings.drain_seconds + GRACE_SECONDS)
        _kill(process)

    def find_dying(self) -> str | None:
        """Why it would help to begin anew with everything."""
        dying = [worker.index for worker in self.workers if worker.deaths >= HOPELESS_DEATHS and not worker.is_heard]
        return f"processes that keep dying: {', '.join(map(str, dying))}" if dying else None

    async def find_unready(self) -> str | None:
        if self.is_stopping:
            return "stopping"
        try:
            await asyncio.gather(*(worker.ask("/readyz") for worker in self.workers))
        except Silent as error:
            return str(error)
        return None

    async def render_metrics(self) -> str:
        """Silent where a process that runs does not answer: a sum without it would look as if it had restarted."""
        running = self.running
        bodies = await asyncio.gather(*(worker.ask("/metrics") for worker in running))
        # In a thread, as thousands of models make it take long, and probes are answered meanwhile.
        return await asyncio.to_thread(self._sum, running, [body.decode() for body in bodies])

    def _sum(self, running: Sequence[Worker], texts: Sequence[str]) -> str:
        for worker, text in zip(running, texts, strict=True):
            worker.counts = parse_exposition(text)
        self._processes.running = len(running)
        return render_exposition(
            merge((*(worker.counts for worker in running), self._retired, self._processes.expose()))
        )

    async def sum_demand(self, *, after: int | None, boot: str | None, wait: float) -> bytes:
        """As one process answers: at once where there is news since `after`, else when there is, else after a while."""
        answers = await self._ask_demand()
        merged = merge_demand(answers.values())
        if after == merged["sequence"] and boot in {None, merged["boot"]} and wait > 0 and answers:
            await self._wait_for_news(answers, wait)
            merged = merge_demand((await self._ask_demand()).values())
        return orjson.dumps({"gateway": self._settings.pod_name, **merged})

    async def _ask_demand(self) -> dict[Worker, Any]:
        running = self.running
        bodies = await asyncio.gather(*(worker.ask("/demand") for worker in running))
        return {worker: orjson.loads(body) for worker, body in zip(running, bodies, strict=True)}

    async def _wait_for_news(self, answers: dict[Worker, Any], wait: float) -> None:
        """Return when any process has news, has died, or nothing happened for so long."""
        polls = [
            asyncio.create_task(
                worker.ask(
                    "/demand",
                    query={"after": str(answer["sequence"]), "boot": answer["boot"], "wait": f"{wait:g}"},
                    seconds=wait + ANSWER_SECONDS,
                )
            )
            for worker, answer in answers.items()
        ]
        try:
            await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for poll in polls:
                poll.cancel()
            await asyncio.gather(*polls, return_exceptions=True)


def merge_demand(answers: Iterable[Any]) -> dict[str, Any]:
    """What several processes' `/demand` come to. One that began anew makes all of it begin anew for the reader."""
    known = list(answers)
    models: dict[str, dict[str, Any]] = {}
    for answer in known:
        for name, model in answer["models"].items():
            before = models.get(name)
            models[name] = model if before is None else _add_demand(before, model)
    boots = " ".join(answer["boot"] for answer in known)
    return {
        "boot": sha256(boots.encode()).hexdigest()[:32],
        "sequence": sum(answer["sequence"] for answer in known),
        "models": models,
    }


def _add_demand(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: one[name] + other[name] for name in ("held", "heldBytes", "inFlight", "arrived")},
        "sinceLast": min(one["sinceLast"], other["sinceLast"]),
        "service": _add_service(one["service"], other["service"]),
    }


def _add_service(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: one[name] + other[name] for name in ("finished", "met", "missed")},
        "reading": join_shares((one["reading"], other["reading"])),
        **{name: add_counts((one[name], other[name])) for name in ("firstToken", "perToken", "whole")},
    }


@asynccontextmanager
async def _assemble(settings: GatewaySettings, command: Sequence[str], count: int) -> AsyncIterator[Supervisor]:
    """All sockets are there before the first process is: none gets more than its share because it was first."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lull-")))
        workers: list[Worker] = []
        for index in range(count):
            path = folder / f"{index}.sock"
            session = await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path), force_close=True))
            )
            workers.append(Worker(index, path, session, bind(settings.port, shared=True)))
            stack.callback(_close, workers[-1])
        yield Supervisor(settings, command, workers)


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


def _close(worker: Worker) -> None:
    if worker.listener is not None:
        worker.listener.close()
        worker.listener = None


def _build_admin(supervisor: Supervisor) -> web.Application:
    async def healthz(_: web.Request) -> web.Response:
        reason = supervisor.find_dying()
        return web.Response(text="ok\n") if reason is None else web.Response(status=503, text=f"{reason}\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = await supervisor.find_unready()
        return web.Response(text="ok\n") if reason is None else web.Response(status=503, text=f"{reason}\n")

    async def metrics(_: web.Request) -> web.Response:
        try:
            text = await supervisor.render_metrics()
        except Silent as error:
            return web.Response(status=503, text=f"{error}\n")
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def demand(request: web.Request) -> web.Response:
        poll = parse_poll(request)
        try:
            body = await supervisor.sum_demand(after=poll.after, boot=poll.boot, wait=poll.wait)
        except Silent as error:
            return web.Response(status=503, text=f"{error}\n")
        return web.Response(body=body, content_type="application/json")

    return route(healthz=healthz, readyz=readyz, metrics=metrics, demand=demand)
