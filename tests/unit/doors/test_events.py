"""Events: said once, counted when they come back, never a flood."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from lull.api.llmdeployment import Manifest
from lull.api.reasons import Reason
from lull.doors.events import BURST, Recorder, ScaledReason
from tests.fakes.apiserver import FakeApiServer, connect_kube, serve_apiserver
from tests.manifests import manifest, stored

EVENTS = "/api/v1/namespaces/default/events"
DEPLOYMENT = stored(manifest(name="m"))


@asynccontextmanager
async def recording() -> AsyncIterator[tuple[FakeApiServer, Recorder]]:
    async with serve_apiserver() as (server, url), connect_kube(url) as kube:
        recorder = Recorder(kube, "operator-a")
        running = asyncio.ensure_future(recorder.run())
        try:
            yield server, recorder
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def posted(server: FakeApiServer) -> list[Manifest]:
    return list(server.objects.get(EVENTS, {}).values())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  the condition is the fake API server's
            await asyncio.sleep(0.005)


async def test_says_what_happened_to_which_object() -> None:
    async with recording() as (server, recorder):
        recorder.record(DEPLOYMENT, ScaledReason.SCALED_UP, "1 → 2")
        recorder.record(DEPLOYMENT, Reason.INVALID_SPEC, "spec.replicas: no", warning=True)
        await until(lambda: len(posted(server)) == 2)

        normal, warning = posted(server)
        assert (normal["type"], normal["reason"], normal["message"]) == ("Normal", "ScaledUp", "1 → 2")
        assert normal["involvedObject"]["uid"] == DEPLOYMENT.uid
        assert (warning["type"], warning["reason"]) == ("Warning", "InvalidSpec")


async def test_says_the_same_words_once_and_counts_other_words() -> None:
    async with recording() as (server, recorder):
        for message in ("1 → 2", "1 → 2", "2 → 3"):
            recorder.record(DEPLOYMENT, ScaledReason.SCALED_UP, message)
        await until(lambda: bool(posted(server)) and posted(server)[0]["message"] == "2 → 3")

        assert [event["count"] for event in posted(server)] == [2]
        assert len(server.writes) == 2


async def test_does_not_flood() -> None:
    async with recording() as (server, recorder):
        for number in range(BURST * 4):
            recorder.record(DEPLOYMENT, ScaledReason.SCALED_UP, str(number))
        await until(lambda: len(server.writes) >= BURST)
        await asyncio.sleep(0.1)

        assert len(server.writes) <= BURST + 1


async def test_a_noisy_llmdeployment_silences_no_other() -> None:
    quiet = replace(DEPLOYMENT, key=DEPLOYMENT.key._replace(name="quiet"), uid="another")
    async with recording() as (server, recorder):
        for number in range(BURST * 4):
            recorder.record(DEPLOYMENT, ScaledReason.SCALED_UP, str(number))
        recorder.record(quiet, Reason.IMAGE_PULL_FAILED, "no such image", warning=True)

        await until(lambda: any(event["message"] == "no such image" for event in posted(server)))


async def test_an_event_that_cannot_be_posted_is_lost_and_the_next_is_not() -> None:
    async with recording() as (server, recorder):
        server.is_gone = True
        recorder.record(DEPLOYMENT, ScaledReason.SCALED_UP, "lost")
        await asyncio.sleep(0.1)
        server.is_gone = False

        recorder.record(DEPLOYMENT, ScaledReason.SCALED_DOWN, "posted")

        await until(lambda: [event["message"] for event in posted(server)] == ["posted"])
