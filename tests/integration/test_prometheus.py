"""History from a real Prometheus that was filled with nine days of a gateway's counters."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from e2e.prometheus import Server, find_server
from lull.api.llmdeployment import Key
from lull.autoscaler.forecasting import Forecaster, Outlook
from lull.cli import app
from lull.core.forecast import STEP, Forecast, Series, learn_forecast
from lull.core.learning import Knowledge
from lull.core.signals import Service
from lull.doors import clock
from lull.doors.kube import LLMDEPLOYMENTS
from lull.doors.prometheus import Prometheus, Unavailable
from lull.doors.store import Store
from tests.fakes.ports import free_port
from tests.integration import test_operator as operators
from tests.integration.conftest import ApiServer
from tests.manifests import UID, manifest

scene = operators.scene
DAYS, SCRAPE = 9, 60
DAY = 86400
PROMPT, CACHED, ANSWER, SECONDS, HELD = 800, 200, 120, 6.0, 2.0
KEY, QUIET, OTHER = Key("team-a", "llama"), Key("team-b", "llama"), Key("team-a", "idle")
KNOWN = Knowledge(0.0, Service(0, 0), 1, 0.0, 0.0, capacity=0.05, evidence=100.0)


@dataclass(frozen=True)
class Past:
    """What was counted until now, and where a Prometheus has it."""

    begin: int
    end: int
    folder: Path

    def rate(self, at: float) -> float:
        """Requests a second of KEY: days of twelve hours that begin at this hour, after a first one without any."""
        day, second = divmod(at - self.begin, DAY)
        if day == 0 or second >= DAY / 2:
            return 0.0
        return 0.2 + 0.0125 * day + (at % 3600) / 72000

    def is_scraped(self, at: float) -> bool:
        """Prometheus was away for two hours on the fourth day."""
        return not 3 * DAY + 30_000 <= at - self.begin < 3 * DAY + 37_200

    def cut(self, begin: float, end: float) -> Series:
        count = round((end - begin) / STEP)
        return Series(begin, STEP, tuple(self.rate(begin + number * STEP) for number in range(count)))


@pytest.fixture(scope="session")
def server() -> Server:
    return find_server()


@pytest.fixture(scope="session")
def past(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Past:
    end = int(time.time() // STEP * STEP)
    made = Past(end - DAYS * DAY, end, tmp_path_factory.mktemp("past"))
    server.fill(made.folder, expose(made))
    return made


def expose(past: Past) -> Iterator[str]:
    """Counters as gateways expose them: the one model scraped through a PodMonitor, the other without a namespace."""
    total = 1e6
    counted = []
    for at in range(past.begin, past.end + 1, SCRAPE):
        total += past.rate(at - SCRAPE) * SCRAPE
        if past.is_scraped(at):
            counted.append((at, total))
    first_day = past.begin + DAY
    own = f'exported_namespace="{KEY.namespace}",namespace="lull-system",name="{KEY.name}"'
    other = f'namespace="{QUIET.namespace}",name="{QUIET.name}"'
    families = {
        "requests": (("_total", f'{own},code="200"', 0.9), ("_total", f'{own},code="429"', 0.1)),
        "input_tokens": (("_total", f'{own},adapter=""', PROMPT),),
        "cached_tokens": (("_total", f'{own},adapter=""', CACHED),),
        "output_tokens": (("_total", f'{own},adapter=""', ANSWER),),
    }
    for family, rows in families.items():
        yield f"# TYPE lull_gateway_{family} counter"
        for suffix, labels, factor in rows:
            for at, value in counted:
                # A series begins with the first request.
                if at >= first_day:
                    yield f"lull_gateway_{family}{suffix}{{{labels}}} {value * factor} {at}"
        if family == "requests":
            for at, value in counted:
                yield f'lull_gateway_requests_total{{{own},code="400"}} {value * 3} {at}'
                yield f'lull_gateway_requests_total{{{other},code="200"}} {1e6 + (at - past.begin) * 0.25} {at}'
    for family, factor in (("request_seconds", SECONDS + HELD), ("hold_seconds", HELD)):
        yield f"# TYPE lull_gateway_{family} histogram"
        for at, value in counted:
            yield f'lull_gateway_{family}_bucket{{{own},le="+Inf"}} {round(value)} {at}'
            yield f"lull_gateway_{family}_sum{{{own}}} {value * factor} {at}"
            yield f"lull_gateway_{family}_count{{{own}}} {round(value)} {at}"
    yield "# TYPE lull_gateway_limits_shared gauge"
    for at, _ in counted:
        yield f'lull_gateway_limits_shared{{pod="gateway-0"}} 1 {at}'


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    url: str


@pytest.fixture
def running(server: Server, past: Past, tmp_path: Path) -> Iterator[Running]:
    shutil.copytree(past.folder / "tsdb", tmp_path / "tsdb")
    port = free_port()
    process = server.start(tmp_path, port=port)
    wait_ready(process, port, tmp_path)
    yield Running(process, f"http://127.0.0.1:{port}")
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


def wait_ready(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    until = time.monotonic() + 100
    while time.monotonic() < until and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(b"GET /-/ready HTTP/1.0\r\n\r\n")
                if b" 200 " in connection.recv(100):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    pytest.fail((folder / "prometheus.log").read_text())


@asynccontextmanager
async def asking(running: Running, **options: Any) -> AsyncIterator[Prometheus]:
    prometheus = Prometheus(running.url, **options)
    try:
        yield prometheus
    finally:
        prometheus.close()


def compare(read: Series, past: Past) -> None:
    """Against what was counted, step by step; a step in which scrapes are missing may have anything near it."""
    expected = past.cut(past.begin, past.end)
    assert (read.begin, read.end, read.step) == (expected.begin, expected.end, STEP)
    for number, (value, truth) in enumerate(zip(read.values, expected.values, strict=True)):
        at = past.begin + number * STEP
        is_whole = all(past.is_scraped(at + second) for second in range(-SCRAPE, round(STEP) + SCRAPE + 1, SCRAPE))
        if not past.is_scraped(at) and not past.is_scraped(at + STEP):
            assert value is None, number
        elif is_whole:
            # A counter's first sample in a step is that of its end.
            assert value == pytest.approx(truth, abs=0.035), number


async def test_reads_what_was_counted(running: Running, past: Past) -> None:
    async with asking(running) as prometheus:
        read = await prometheus.read_arrivals(KEY, wall=past.end, days=DAYS)

    compare(read, past)
    assert read.values[:280] == (0.0,) * 280, "gateways were scraped, and had no request yet"
    count = sum(value or 0.0 for value in read.values) * STEP
    whole = sum(past.rate(at) * SCRAPE for at in range(past.begin, past.end, SCRAPE) if past.is_scraped(at))
    assert count == pytest.approx(whole, rel=0.01)


async def test_a_model_of_the_same_name_in_another_namespace_is_another(running: Running, past: Past) -> None:
    async with asking(running) as prometheus:
        quiet = await prometheus.read_arrivals(QUIET, wall=past.end, days=1)
        idle = await prometheus.read_arrivals(OTHER, wall=past.end, days=1)

    assert [value for value in quiet.values if value is not None] == [pytest.approx(0.25)] * 288
    assert set(idle.values) == {0.0}


async def test_what_is_known_is_not_asked_for_again(running: Running, past: Past) -> None:
    async with asking(running) as prometheus:
        before = await prometheus.read_arrivals(KEY, wall=past.end - 3600, days=5)
        after = await prometheus.read_arrivals(KEY, wall=past.end, days=5, known=before)

        assert after == await prometheus.read_arrivals(KEY, wall=past.end, days=5)


async def test_the_forecast_is_that_of_what_was_counted(running: Running, past: Past) -> None:
    async with asking(running) as prometheus:
        # Before load rises, on the last day.
        wall = past.begin + (DAYS - 1) * DAY - 600
        read = await prometheus.read_arrivals(KEY, wall=wall, days=DAYS - 1)
        seconds = await prometheus.read_seconds(KEY)

    counted = past.cut(read.begin, read.end)
    through, directly = (learn_forecast(series, wall=wall, ahead=300.0) for series in (read, counted))
    assert isinstance(through, Forecast)
    assert isinstance(directly, Forecast)
    assert (through.begin, through.pattern) == (directly.begin, directly.pattern)
    assert through.rates == pytest.approx(directly.rates, abs=0.01)
    assert through.find_rate(wall, ahead=0.0) == pytest.approx(0.0, abs=0.01)
    assert through.find_rate(wall, ahead=1500.0) == pytest.approx(0.27, abs=0.04)
    assert seconds == pytest.approx(SECONDS, rel=0.01)


async def test_nobody_waits_for_a_prometheus_that_is_frozen(running: Running, past: Past) -> None:
    async with asking(running, deadline=2.0) as prometheus:
        running.process.send_signal(signal.SIGSTOP)

        with pytest.raises(Unavailable, match=r"^(no answer in time|ReadTimeout)$"):
            await prometheus.read_arrivals(KEY, wall=past.end, days=1)


@asynccontextmanager
async def forecasting(prometheus: Prometheus | None, spec: dict[str, Any]) -> AsyncIterator[tuple[Forecaster, Any]]:
    store = Store()
    written = manifest(namespace=KEY.namespace, name=KEY.name, scaling=spec)
    store.learn({**written, "metadata": {**written["metadata"], "uid": UID, "resourceVersion": "1"}})
    forecaster = Forecaster(prometheus, store=store)
    task = asyncio.ensure_future(forecaster.run())
    try:
        yield forecaster, store.find_deployment(KEY)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(100):
        while not is_so():  # noqa: ASYNC110  the forecaster tells nobody
            await asyncio.sleep(0.05)


async def test_decisions_go_on_without_a_prometheus_that_died(running: Running) -> None:
    async with asking(running) as prometheus, forecasting(prometheus, {"forecast": {"days": 9}}) as (one, deployment):

        def look(*, later: float = 0.0) -> Outlook:
            return one.look(deployment, KNOWN, wall=clock.wall() + later)

        assert look() == Outlook(None, "The forecast is not used: Prometheus has not answered yet.")
        await until(lambda: look().ahead is not None)
        alive = look()
        running.process.kill()
        one._learnt[KEY] = replace(one._learnt[KEY], due_at=0.0)
        await until(lambda: "does not answer" in look().remark)
        dead, later = look(), look(later=2 * 3600)

    assert alive.ahead is not None
    assert alive.ahead.replicas >= 4
    assert alive.remark.startswith("The forecast, by ")
    assert dead.ahead == alive.ahead
    assert dead.remark.endswith("Prometheus does not answer (ConnectionError): what it said before counts for an hour.")
    assert later == Outlook(None, "The forecast is not used: Prometheus does not answer (ConnectionError).")


async def test_says_what_is_missing() -> None:
    async with forecasting(None, {"forecast": {}}) as (one, deployment):
        assert one.look(deployment, KNOWN, wall=clock.wall()) == Outlook(
            None, "The forecast is not used: the operator knows no Prometheus (prometheus.url of the chart)."
        )
    async with forecasting(None, {}) as (one, deployment):
        assert one.look(deployment, KNOWN, wall=clock.wall()) == Outlook(None, "")


def test_simulates_what_was_counted(running: Running, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("minReplicas: 1\nmaxReplicas: 4\n")
    options = ("--policy", str(tmp_path / "policy.yaml"), "--engine", "llama-3.1-8b-l4", "--json")

    played = CliRunner().invoke(
        app, ["simulate", "--trace", running.url, "--llm", f"{KEY.namespace}/{KEY.name}", "--days", "0.75", *options]
    )

    assert played.exit_code == 0, played.output
    trace = json.loads(played.stdout)["trace"]
    assert trace["llm"] == "team-a/llama"
    assert trace["requests"] == pytest.approx(DAY / 4 * 0.325, rel=0.05)


@pytest.fixture
def namespace(apiserver: ApiServer) -> str:
    apiserver.kubectl("create", "namespace", KEY.namespace)
    return KEY.namespace


async def test_the_operator_is_ahead_of_the_day_and_decides_without_prometheus(
    scene: operators.Scene, running: Running
) -> None:
    async def says(kind: str, word: str) -> bool:
        return word in (await scene.condition(KEY.name, kind)).get("message", "")

    async def has(replicas: int) -> bool:
        return await scene.replicas(KEY.name) == replicas

    scene.apply(KEY.name, scaling={"forecast": {"days": 9}, "target": {"inFlight": 1}, "maxReplicas": 3})
    async with operators.running(scene.kube, scene.namespace, prometheus_url=running.url):
        # Nobody asks; at this hour of earlier days, a quarter of a request a second took six seconds each.
        await operators.until(lambda: has(2), seconds=100)
        await operators.until(lambda: says("ScalingActive", "The forecast, by "), seconds=100)
        found = await scene.kube.get(LLMDEPLOYMENTS, scene.namespace, KEY.name)
    assert found is not None
    assert found["status"]["decisions"][0]["reason"] == "Forecast"

    running.process.kill()
    running.process.wait()
    async with operators.running(scene.kube, scene.namespace, prometheus_url=running.url):
        await operators.until(
            lambda: says("ScalingActive", "The forecast is not used: Prometheus does not answer (ConnectionError)."),
            seconds=100,
        )
        await scene.demand(KEY.name, in_flight=3)
        await operators.until(lambda: has(3), seconds=100)
