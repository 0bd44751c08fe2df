"""The door to Prometheus, on answers that no Prometheus gives, and with what it is to be asked with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from lull.api.llmdeployment import Key
from lull.doors.prometheus import Prometheus, Unavailable

KEY = Key("default", "m")
WALL = 1_767_571_200.0
EMPTY = '{"status": "success", "data": {"resultType": "matrix", "result": []}}'


@dataclass
class Answering:
    """Something that answers, and what it was asked."""

    body: bytes = EMPTY.encode()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[web.Request] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        return web.Response(body=self.body, status=self.status, headers=self.headers)


@asynccontextmanager
async def answering(credentials: Path | None = None) -> AsyncIterator[tuple[Answering, Prometheus]]:
    one = Answering()
    application = web.Application()
    application.router.add_get("/{path:.*}", one.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    prometheus = Prometheus(f"{one.url}/prefix/", credentials=str(credentials or ""), deadline=60.0)
    try:
        yield one, prometheus
    finally:
        prometheus.close()
        await runner.cleanup()


async def refusal(prometheus: Prometheus) -> str:
    with pytest.raises(Unavailable) as caught:
        await prometheus.read_arrivals(KEY, wall=WALL, days=3)
    return str(caught.value)


async def test_asks_below_its_path_for_the_steps_up_to_now() -> None:
    async with answering() as (one, prometheus):
        series = await prometheus.read_arrivals(KEY, wall=WALL + 17, days=3)

    (request,) = one.asked
    assert request.path == "/prefix/api/v1/query_range"
    assert (request.query["end"], request.query["step"]) == (f"{WALL:.0f}", "300")
    assert (series.end, len(series.values), set(series.values)) == (WALL, 3 * 288, {None})


async def test_asks_for_long_times_in_parts() -> None:
    async with answering() as (one, prometheus):
        series = await prometheus.read_arrivals(KEY, wall=WALL, days=56)

    assert len(series.values) == 56 * 288
    begins = [int(request.query["start"]) for request in one.asked]
    ends = [int(request.query["end"]) for request in one.asked]
    assert begins[1:] == [end + 300 for end in ends[:-1]]
    assert all((end - begin) / 300 < 5000 for begin, end in zip(begins, ends, strict=True))


async def test_says_who_asks_as_the_folder_says_it_now(tmp_path: Path) -> None:
    async with answering(tmp_path) as (one, prometheus):
        await prometheus.read_seconds(KEY)
        (tmp_path / "token").write_text("first\n")
        (tmp_path / "headers").write_text("X-Scope-OrgID: team-a\n\nX-Other: b: c\n")
        await prometheus.read_seconds(KEY)
        (tmp_path / "token").write_text("second")
        await prometheus.read_seconds(KEY)

    nobody, first, second = (request.headers for request in one.asked)
    assert "Authorization" not in nobody
    assert (first["Authorization"], second["Authorization"]) == ("Bearer first", "Bearer second")
    assert (second["X-Scope-OrgID"], second["X-Other"]) == ("team-a", "b: c")


async def test_a_header_that_is_none_is_said_without_what_stands_in_it(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("X-Scope-OrgID: team-a\nhunter2")

    async with answering(tmp_path) as (one, prometheus):
        said = await refusal(prometheus)

    assert said == "headers, line 2: write Name: value, in at most 16 lines"
    assert not one.asked


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "its answer is none of Prometheus"),
        (b"<html>", "its answer is none of Prometheus"),
        (b"[]", "its answer is none of Prometheus"),
        (b'{"data": {}}', "its answer is none of Prometheus"),
        (b'{"data": {"result": {}}}', "its answer is none of Prometheus: not one series"),
        (b'{"data": {"result": [{"values": [[1, "x"]]}]}}', "its answer is none of Prometheus: a value is no number"),
    ],
)
async def test_an_answer_that_is_none_is_like_no_answer(body: bytes, said: str) -> None:
    async with answering() as (one, prometheus):
        one.body = body

        assert await refusal(prometheus) == said


async def test_a_status_is_said_without_the_page_that_comes_with_it() -> None:
    async with answering() as (one, prometheus):
        one.status, one.body = 401, b"who are you?"

        assert await refusal(prometheus) == "HTTP Status Code 401"


async def test_follows_nobody_who_sends_it_elsewhere() -> None:
    async with answering() as (one, prometheus):
        one.status, one.headers = 302, {"Location": f"{one.url}/elsewhere"}

        assert await refusal(prometheus) == "TooManyRedirects"
    assert len(one.asked) == 1


async def test_an_endless_answer_is_given_up() -> None:
    async with answering() as (one, prometheus):
        one.body = b" " * (17 << 20)

        assert await refusal(prometheus) == "its answer is too large or too slow"


async def test_nobody_there_is_said_in_one_word() -> None:
    prometheus = Prometheus("http://127.0.0.1:1", deadline=60.0)

    assert await refusal(prometheus) == "ConnectionError"
    prometheus.close()
