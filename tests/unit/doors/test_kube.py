"""The seam to Kubernetes: watches that end."""

from __future__ import annotations

import asyncio

import pytest

from lull.doors.kube import PODS, WatchEvent, reflect
from tests.fakes.apiserver import connect_kube, serve_apiserver

PODS_PATH = "/api/v1/pods"


async def test_watches_that_end_at_once_are_not_asked_for_without_a_pause() -> None:
    async with serve_apiserver() as (server, url), connect_kube(url) as kube:
        server.is_curt = True

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.7):
                await reflect(kube, PODS, lambda _: None)

        assert 1 < server.watches < 6


async def test_sees_again_once_watches_last() -> None:
    seen: asyncio.Queue[WatchEvent] = asyncio.Queue()
    async with serve_apiserver() as (server, url), connect_kube(url) as kube:
        server.is_curt = True
        reflecting = asyncio.ensure_future(reflect(kube, PODS, seen.put))
        async with asyncio.timeout(5):
            while server.watches < 2:  # noqa: ASYNC110  the fake API server's count
                await asyncio.sleep(0.005)
        server.is_curt = False

        await server.put(PODS_PATH, {"metadata": {"namespace": "default", "name": "p"}})

        async with asyncio.timeout(5):
            event = await seen.get()
        reflecting.cancel()
        assert (event.type, event.object["metadata"]["name"]) == ("ADDED", "p")


async def test_a_list_after_the_watch_tells_what_the_watch_kept_to_itself() -> None:
    seen: asyncio.Queue[WatchEvent] = asyncio.Queue()
    async with serve_apiserver() as (server, url), connect_kube(url) as kube:
        await server.put(PODS_PATH, {"metadata": {"namespace": "default", "name": "p"}})
        reflecting = asyncio.ensure_future(reflect(kube, PODS, seen.put, relist_seconds=0))
        async with asyncio.timeout(5):
            assert (await seen.get()).type == "ADDED"
            while not server.watches:  # noqa: ASYNC110  the fake API server's count
                await asyncio.sleep(0.005)

        await server.hide(PODS_PATH, "p")
        await server.cut()

        async with asyncio.timeout(5):
            event = await seen.get()
        reflecting.cancel()
        assert (event.type, event.object["metadata"]["name"]) == ("DELETED", "p")
        assert event.object["metadata"]["resourceVersion"] == str(server.version)


@pytest.mark.parametrize("page", ["<html>The cluster is being upgraded.</html>\n", '{"type": "ADDED", "obj\n'])
async def test_what_a_proxy_says_for_the_api_server_is_waited_out(page: str) -> None:
    seen: asyncio.Queue[WatchEvent] = asyncio.Queue()
    async with serve_apiserver() as (server, url), connect_kube(url) as kube:
        reflecting = asyncio.ensure_future(reflect(kube, PODS, seen.put))
        async with asyncio.timeout(5):
            while not server.watches:  # noqa: ASYNC110  the fake API server's count
                await asyncio.sleep(0.005)
        server.page = page
        await server.cut()
        await asyncio.sleep(0.3)
        server.page = ""

        await server.put(PODS_PATH, {"metadata": {"namespace": "default", "name": "p"}})

        async with asyncio.timeout(10):
            event = await seen.get()
        reflecting.cancel()
        assert (event.type, event.object["metadata"]["name"]) == ("ADDED", "p")


async def test_ends_where_an_optional_kind_is_not_there() -> None:
    async with serve_apiserver() as (server, url), connect_kube(url) as kube:
        server.refused[PODS_PATH] = 404

        async with asyncio.timeout(5):
            await reflect(kube, PODS, lambda _: None, is_optional=True)
