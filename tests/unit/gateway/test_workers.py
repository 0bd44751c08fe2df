"""Several processes behind one port: none of what clients, probes, Prometheus and the operator see tells of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from lull.core.signals import find_woken, parse_sample
from lull.doors.merging import keep_counts, merge, parse_exposition, render_exposition
from lull.gateway import workers
from lull.gateway.workers import count_workers, merge_demand, parse_cpu_max, supervise
from lull.settings import GatewaySettings
from tests.fakes.engine import FakeEngine
from tests.fakes.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

FAKE = (sys.executable, "-m", "tests.fakes.worker")


class Pod:
    def __init__(self, settings: GatewaySettings, session: aiohttp.ClientSession) -> None:
        self.settings = settings
        self.session = session
        self.stop = asyncio.Event()

    async def ask(self, path: str = "/") -> str:
        async with self.session.get(f"http://127.0.0.1:{self.settings.port}{path}") as response:
            return await response.text()

    async def tell(self, path: str, **query: Any) -> tuple[int, str]:
        async with self.session.get(f"http://127.0.0.1:{self.settings.admin_port}{path}", params=query) as response:
            return response.status, await response.text()

    async def demand(self, **query: Any) -> Any:
        _, body = await self.tell("/demand", **query)
        return parse_sample(body.encode(), at=0)

    async def value(self, series: str) -> float:
        _, text = await self.tell("/metrics")
        return {
            sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples
        }[series]

    async def until(self, reached: Callable[[], Any]) -> None:
        async with asyncio.timeout(60):
            while not await reached():  # noqa: ASYNC110  what is waited for happens in other processes
                await asyncio.sleep(0.02)

    async def is_ready(self) -> bool:
        return await self.is_there() and (await self.tell("/readyz"))[0] == 200

    async def is_there(self) -> bool:
        try:
            await self.tell("/healthz")
        except aiohttp.ClientConnectorError:
            return False
        return True

    async def is_refusing(self) -> bool:
        try:
            await self.ask()
        except aiohttp.ClientError:
            return True
        return False


@asynccontextmanager
async def running(*, command: Sequence[str] = FAKE, ready: bool = True) -> AsyncIterator[Pod]:
    settings = GatewaySettings(port=free_port(), admin_port=free_port(), lame_duck_seconds=0, drain_seconds=30)
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        pod = Pod(settings, session)
        group.create_task(supervise(settings, command, 2, stop=pod.stop))
        try:
            await pod.until(pod.is_ready if ready else pod.is_there)
            yield pod
        finally:
            pod.stop.set()


async def test_every_process_takes_part() -> None:
    async with running() as pod:
        pids = [await pod.ask() for _ in range(64)]

    assert len(set(pids)) == 2


async def test_connections_that_wait_for_a_dead_process_get_its_successor() -> None:
    async with running() as pod:
        first = await pod.ask()
        os.kill(int(first), signal.SIGKILL)
        answers = await asyncio.gather(*(pod.ask() for _ in range(64)), return_exceptions=True)
        pids = {answer for answer in answers if isinstance(answer, str)}
        await pod.until(pod.is_ready)

    assert all(isinstance(answer, str) for answer in answers)
    assert len(pids) == 2
    assert first not in pids


async def test_a_stop_lets_every_process_finish() -> None:
    async with running() as pod:
        slow = [asyncio.create_task(pod.ask("/slow")) for _ in range(16)]
        await asyncio.gather(*(pod.ask() for _ in range(4)))
        pod.stop.set()
        await pod.until(pod.is_refusing)
        status = (await pod.tell("/readyz"), (await pod.tell("/healthz"))[0])
        pids = await asyncio.gather(*slow)

    assert len(set(pids)) == 2
    assert status == ((503, "stopping\n"), 200)


async def test_counts_are_summed_and_outlive_the_process_that_made_them() -> None:
    async with running() as pod:
        pids = [await pod.ask() for _ in range(32)]
        before = await pod.value("served_total")
        os.kill(int(pids[0]), signal.SIGKILL)
        await pod.until(lambda: restarted(pod))
        await pod.until(pod.is_ready)
        after, started = await pod.value("served_total"), await pod.value("lull_gateway_workers")

    assert (before, after, started) == (32, 32, 2)


async def restarted(pod: Pod) -> bool:
    status, text = await pod.tell("/metrics")
    return status == 200 and "lull_gateway_worker_restarts_total 1.0" in text


async def test_demand_is_summed_and_news_of_any_process_is_news() -> None:
    async with running() as pod:
        first = await pod.demand()
        polling = asyncio.create_task(pod.demand(after=first.sequence, boot=first.boot, wait=20))
        await asyncio.sleep(0.1)
        for _ in range(8):
            await pod.ask("/hold")
        second = await polling
        third = await pod.demand()

    (key,) = third.models
    assert second.boot == first.boot
    assert second.sequence > first.sequence
    assert find_woken(second, first) == (key,)
    assert (third.models[key].held, third.models[key].arrived, third.sequence) == (8, 8, 8)
    service = third.models[key].service
    assert (service.finished, service.met, service.missed, service.first_token) == (8, 8, 0, {80: 8})
    # Both say a half: their odds are even, and add up.
    assert service.reading == pytest.approx(2 / 3)


async def test_demand_begins_anew_when_a_process_does() -> None:
    async with running() as pod:
        for _ in range(8):
            await pod.ask("/hold")
        first = await pod.demand()
        os.kill(int(await pod.ask()), signal.SIGKILL)
        await pod.until(lambda: restarted(pod))
        await pod.until(pod.is_ready)
        second = await pod.demand(after=first.sequence, boot=first.boot, wait=20)

    assert second.boot != first.boot


async def test_a_gateway_whose_processes_keep_dying_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.001)

    async def is_dead(pod: Pod) -> bool:
        return (await pod.tell("/healthz"))[0] == 503

    async with running(command=("false",), ready=False) as pod:
        await pod.until(lambda: is_dead(pod))
        status, said = await pod.tell("/healthz")

    assert status == 503
    assert said.startswith("processes that keep dying: ")


async def test_a_gateway_whose_processes_live_after_all_is_alive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(workers, "CHECK_SECONDS", 0.05)
    # Only one of two processes that start at once makes a folder.
    die_often = f'for run in {{1..12}}; do mkdir {tmp_path}/$run 2>/dev/null && exit; done; exec {" ".join(FAKE)} "$@"'

    async def is_alive(pod: Pod) -> bool:
        return await pod.is_ready() and (await pod.tell("/healthz"))[0] == 200

    async with running(command=("bash", "-c", die_often, "bash"), ready=False) as pod:
        await pod.until(lambda: is_alive(pod))
        restarts = await pod.value("lull_gateway_worker_restarts_total")

    assert restarts == 12


async def test_real_gateways_serve_a_file_and_end_with_their_supervisor(tmp_path: Path) -> None:
    settings = GatewaySettings(port=free_port(), admin_port=free_port())
    file = tmp_path / "lull.yaml"
    async with (
        FakeEngine() as engine,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
    ):
        endpoints = [f"http://127.0.0.1:{engine.port}"]
        file.write_text(
            yaml.safe_dump(
                {
                    "port": settings.port,
                    "adminPort": settings.admin_port,
                    "lameDuckSeconds": 0,
                    "workers": 2,
                    "models": [{"name": "llama", "endpoints": endpoints}],
                }
            )
        )
        supervisor = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "lull", "gateway", "--config", str(file)), stdout=asyncio.subprocess.DEVNULL
        )
        try:
            pod = Pod(settings, session)
            await pod.until(pod.is_ready)
            url = f"http://127.0.0.1:{settings.port}/v1/chat/completions"
            for _ in range(16):
                async with session.post(url, json={"model": "llama", "messages": []}) as response:
                    assert response.status == 200
            demand = await pod.demand()
            requests = await pod.value("lull_gateway_requests_total")
        finally:
            supervisor.kill()
            await supervisor.wait()
        await pod.until(pod.is_refusing)

    assert [model.arrived for model in demand.models.values()] == [16]
    assert requests == 16


def test_a_control_group_allows_so_many_cores() -> None:
    assert [parse_cpu_max(text) for text in ("max 100000\n", "250000 100000\n", "50000 100000\n")] == [None, 3, 1]


def test_there_are_as_many_processes_as_are_wanted() -> None:
    assert count_workers(3) == 3
    assert count_workers(0) >= 1
    assert GatewaySettings.model_validate({"workers": "auto"}).workers == 0


def test_a_sum_says_what_the_reference_parser_reads() -> None:
    one = (
        "# HELP a_total Requests.\n# TYPE a_total counter\n"
        'a_total{code="200",name="with \\"quotes\\" and spaces"} 3.0\n'
        'a_total{code="500",name="x"} 1.0\n'
        "# HELP s Seconds.\n# TYPE s histogram\n"
        's_bucket{le="0.1"} 1.0\ns_bucket{le="+Inf"} 2.0\ns_count 2.0\ns_sum 1.5\n'
        "# HELP process_start_time_seconds Start.\n# TYPE process_start_time_seconds gauge\n"
        "process_start_time_seconds 5.0\n"
    )
    other = one.replace('code="500"', 'code="503"').replace("seconds 5.0", "seconds 4.0")

    merged = render_exposition(merge([parse_exposition(one), parse_exposition(other)]))
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(merged)
        for sample in family.samples
    }

    assert values == {
        ("a_total", "200", 'with "quotes" and spaces'): 6,
        ("a_total", "500", "x"): 1,
        ("a_total", "503", "x"): 1,
        ("s_bucket", "0.1"): 2,
        ("s_bucket", "+Inf"): 4,
        ("s_count",): 4,
        ("s_sum",): 3,
        ("process_start_time_seconds",): 4,
    }
    assert "process_start_time_seconds" not in keep_counts(parse_exposition(one))


def test_no_process_has_no_demand() -> None:
    assert merge_demand([])["models"] == {}
