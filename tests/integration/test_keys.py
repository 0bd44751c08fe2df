"""Keys from the command line to a gateway, against a real API server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import yaml

from lull.core.keys import Keyring, parse_key
from lull.doors.kube import Kube
from lull.gateway import keystore
from tests.integration.conftest import ApiServer

SECRET = "lull-gateway-keys"


def lull(apiserver: ApiServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("lull")), "keys", *arguments],
        env={**os.environ, "KUBECONFIG": str(apiserver.kubeconfig), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def listed(apiserver: ApiServer, namespace: str) -> list[str]:
    return [one["id"] for one in json.loads(lull(apiserver, "list", "-n", namespace, "-o", "json").stdout)]


@asynccontextmanager
async def watching(kube: Kube, namespace: str) -> AsyncIterator[list[Keyring]]:
    """As a gateway does."""
    told: list[Keyring] = []
    task = asyncio.ensure_future(keystore.watch(kube, told.append, namespace=namespace, name=SECRET))
    await until(lambda: bool(told))
    yield told
    task.cancel()
    await asyncio.wait([task])


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_true():  # noqa: ASYNC110  the condition is the API server's
            await asyncio.sleep(0.02)


def knows(told: list[Keyring], token: str) -> bool:
    return told[-1].find(f"Bearer {token}".encode(), now=time.time()) is not None


async def test_a_key_is_known_to_gateways_until_it_is_revoked(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    async with watching(kube, namespace) as told:
        assert len(told[-1]) == 0

        made = await asyncio.to_thread(
            lull, apiserver, "create", "team-a", "-n", namespace, "--models", "qwen, qwen-sql", "--rpm", "60"
        )
        token = made.stdout.strip()
        assert made.returncode == 0, made.stderr
        began = time.monotonic()
        await until(lambda: knows(told, token))
        assert time.monotonic() - began < 5
        key = told[-1].find(token.encode(), now=time.time())
        assert key is not None
        assert (key.models, key.requests_per_minute) == (frozenset({"qwen", "qwen-sql"}), 60)

        gone = await asyncio.to_thread(lull, apiserver, "revoke", "team-a", "-n", namespace)
        assert gone.returncode == 0, gone.stderr
        await until(lambda: not knows(told, token))


async def test_other_secrets_are_none_of_its_business(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    async with watching(kube, namespace) as told:
        for name in ("other", SECRET):
            apiserver.kubectl("create", "secret", "generic", name, "-n", namespace, "--from-literal=a=b")
        await until(lambda: len(told) > 1)

    assert len(told) == 2


async def test_a_deleted_secret_is_no_keys(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    token = lull(apiserver, "create", "team-a", "-n", namespace).stdout.strip()
    async with watching(kube, namespace) as told:
        assert knows(told, token)
        apiserver.kubectl("delete", "secret", SECRET, "-n", namespace)
        await until(lambda: not knows(told, token))


def test_what_is_stored_opens_nothing(apiserver: ApiServer, namespace: str) -> None:
    token = lull(apiserver, "create", "team-a", "-n", namespace, "--note", "for Ada").stdout.strip()

    secret = json.loads(apiserver.kubectl("get", "secret", SECRET, "-n", namespace, "-o", "json"))
    shown = (
        lull(apiserver, "list", "-n", namespace).stdout + lull(apiserver, "list", "-n", namespace, "-o", "json").stdout
    )

    assert token.rpartition("_")[2] not in json.dumps(secret) + shown
    assert "for Ada" in shown
    assert "sha256" not in shown


def test_many_at_once_lose_nothing(apiserver: ApiServer, namespace: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda turn: lull(apiserver, "create", f"team-{turn}", "-n", namespace), range(6)))

    assert [(one.returncode, one.stderr) for one in made if one.returncode] == []
    assert listed(apiserver, namespace) == [f"team-{turn}" for turn in range(6)]

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda turn: lull(apiserver, "revoke", f"team-{turn}", "-n", namespace), range(3)))

    assert listed(apiserver, namespace) == ["team-3", "team-4", "team-5"]


def test_an_id_is_given_once(apiserver: ApiServer, namespace: str) -> None:
    first = lull(apiserver, "create", "team-a", "-n", namespace)
    again = lull(apiserver, "create", "team-a", "-n", namespace)

    assert (first.returncode, again.returncode) == (0, 1)
    assert again.stdout == ""
    assert again.stderr.startswith("lull keys create: there is a key team-a already")


def test_revoking_what_is_not_there_changes_nothing(apiserver: ApiServer, namespace: str) -> None:
    lull(apiserver, "create", "team-a", "-n", namespace)

    result = lull(apiserver, "revoke", "team-a", "team-b", "-n", namespace)

    assert result.returncode == 1
    assert result.stderr == f"lull keys revoke: there is no key team-b in Secret {namespace}/{SECRET}\n"
    assert listed(apiserver, namespace) == ["team-a"]


def test_an_entry_that_somebody_broke_is_named(apiserver: ApiServer, namespace: str) -> None:
    lull(apiserver, "create", "team-a", "-n", namespace)
    apiserver.kubectl("patch", "secret", SECRET, "-n", namespace, "-p", '{"stringData": {"broken": "{"}}')

    result = lull(apiserver, "list", "-n", namespace)

    assert result.returncode == 1
    assert "team-a" in result.stdout
    assert result.stderr == "lull keys list: not readable: broken: neither JSON nor YAML\n"


def test_a_printed_entry_is_what_a_secret_takes(apiserver: ApiServer, namespace: str) -> None:
    result = lull(apiserver, "create", "team-a", "--print", "--tpd", "1000", "--expires", "30d")
    token = result.stderr.rpartition(" ")[2].strip()
    entries = yaml.safe_load(result.stdout)
    texts = {id_: yaml.safe_dump(entry) for id_, entry in entries.items()}
    secret = {"metadata": {"name": SECRET, "namespace": namespace}, "stringData": texts}
    apiserver.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Secret", **secret}))

    key = parse_key("team-a", entries["team-a"])

    assert Keyring([key]).find(token.encode(), now=time.time()) is key
    assert key.tokens_per_day == 1000
    assert listed(apiserver, namespace) == ["team-a"]


def test_a_cluster_without_keys_says_so(apiserver: ApiServer, namespace: str) -> None:
    result = lull(apiserver, "list", "-n", namespace)

    assert (result.returncode, result.stdout) == (0, f"There is no key in Secret {namespace}/{SECRET}.\n")
