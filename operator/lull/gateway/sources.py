"""Where a gateway learns of models and endpoints: a cluster, or a file."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp
import orjson
import structlog

from lull.api import names
from lull.api.addresses import render_origin
from lull.core.documents import render_finding
from lull.core.keys import Keyring
from lull.core.routing import Endpoint
from lull.doors import clock
from lull.gateway import access
from lull.gateway.config import InvalidConfig, load_config
from lull.wire.openai import PATH_MODELS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from lull.api.llmdeployment import Key
    from lull.doors.kube import Kube
    from lull.gateway.config import Address, Config, Model
    from lull.gateway.directory import Directory
    from lull.gateway.exchange import Gateway
    from lull.settings import GatewaySettings

LOOK_SECONDS: Final = 1.0
"""Between two looks at whether the file is another one."""
CHECK_SECONDS: Final = 2.0
"""Between two health checks of an engine."""
CHECKS_AT_ONCE: Final = 64
ANSWER_SECONDS: Final = 5.0
"""A health check that takes longer failed; engines that are short of CPU need seconds."""
CONNECT_SECONDS: Final = 2.0
SLOW_CHECKS: Final = 2
"""Checks in a row without an answer until an engine gets no requests. One that says no gets none at once.

After the first it may be the gateway itself that was kept from its core, and then it is so with all engines at once.
"""
LOST_CHECKS: Final = 3
"""Checks in a row to whose address nothing answers at all until its requests are given up: the machine is gone."""
RESOLVE_SECONDS: Final = 30.0
_LIST_BYTES: Final = 1 << 20
MAX_ADDRESSES: Final = 8
"""Of one host name, that are tried."""


class Source(Protocol):
    """Where models and endpoints come from."""

    async def run(self, gateway: Gateway) -> None:
        """Tell the gateway's directory of them, until cancelled."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Models are LLMDeployments, endpoints are pods."""

    connection: Kube
    scope: str | None

    async def run(self, gateway: Gateway) -> None:
        from lull.doors import kube, trimming  # noqa: PLC0415  as in connect()

        directory = gateway.directory
        async with asyncio.TaskGroup() as group:
            group.create_task(
                kube.reflect(
                    self.connection,
                    kube.LLMDEPLOYMENTS,
                    directory.record_deployment,
                    namespace=self.scope,
                    on_synced=lambda: directory.record_synced("deployments"),
                    on_lost=directory.record_lost,
                )
            )
            group.create_task(
                kube.reflect(
                    self.connection,
                    kube.PODS,
                    directory.record_pod,
                    namespace=self.scope,
                    labels=f"{names.LABEL_COMPONENT}={names.COMPONENT_ENGINE}",
                    on_synced=lambda: directory.record_synced("pods"),
                )
            )
            group.create_task(self._watch_keys(gateway))
            if self.scope is None:
                # Nodes are the cluster's: who serves one namespace does not see them.
                group.create_task(kube.reflect(self.connection, kube.NODES, directory.record_node, trim=trimming.trim))

    async def _watch_keys(self, gateway: Gateway) -> None:
        from lull.gateway import keystore  # noqa: PLC0415  as in connect()

        settings = gateway.settings
        replace = partial(access.replace_keys, gateway)
        if settings.keys_secret:
            await keystore.watch(self.connection, replace, namespace=settings.namespace, name=settings.keys_secret)
        else:
            replace(Keyring())


@asynccontextmanager
async def connect(settings: GatewaySettings) -> AsyncIterator[Source]:
    """The cluster that this process is in, or that the kubeconfig names."""
    # Half of the time that a process takes to start goes into the client, which a gateway with a file never needs.
    from lull.doors import kube  # noqa: PLC0415

    async with kube.connect() as connection:
        yield Cluster(connection, settings.scope)


class FileSource:
    """Models and engines of a file that may change at any time; whether an engine is ready, it is asked itself."""

    def __init__(self, path: Path, *, kept: Path | None = None) -> None:
        """Read the file; InvalidConfig where it is wrong, unless an earlier one that was right is `kept` elsewhere."""
        self._path = path
        self._kept = kept
        self._seen: tuple[int, ...] | None = self._look()
        try:
            self.config = self._read()
        except InvalidConfig:
            if kept is None or not kept.exists():
                raise
            self.config = load_config(kept)
            self._seen = None
        self._models: dict[Key, Model] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._log = structlog.get_logger("lull.gateway")

    async def run(self, gateway: Gateway) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
        async with (
            aiohttp.ClientSession(
                # An engine may close a kept connection just as the next check goes out on it.
                connector=aiohttp.TCPConnector(force_close=True),
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            checks = Checks(session, self._slots)
            self._apply(self.config, gateway, checks, group)
            gateway.directory.record_synced("deployments")
            gateway.directory.record_synced("pods")
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                looked = self._look()
                if looked == self._seen:
                    continue
                self._seen = looked
                try:
                    # In a thread, as a file with thousands of keys takes seconds, and streams go on meanwhile.
                    config = await asyncio.to_thread(self._read)
                except InvalidConfig as error:
                    problems = [render_finding(str(self._path), finding) for finding in error.findings]
                    self._log.error("configuration kept", problems=problems)
                    continue
                self._apply(config, gateway, checks, group)
                self._log.info(
                    "configuration read",
                    models=len(config.models),
                    keys=len(config.keyring),
                    restart_for=self._differing(config),
                )

    def _read(self) -> Config:
        config = load_config(self._path)
        if self._kept is not None:
            other = self._kept.with_suffix(f".{os.getpid()}")
            shutil.copyfile(self._path, other)
            other.replace(self._kept)
        return config

    def _look(self) -> tuple[int, ...]:
        """What is different where the file is; a ConfigMap's is another file behind the same name."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _differing(self, config: Config) -> list[str]:
        """Settings that hold from the next start only."""
        began, wanted = self.config.settings.model_dump(), config.settings.model_dump()
        return sorted(name for name in began if began[name] != wanted[name])

    def _apply(self, config: Config, gateway: Gateway, checks: Checks, group: asyncio.TaskGroup) -> None:
        """Tell the directory what is different. What an engine has begun, it finishes, in the file or not."""
        directory = gateway.directory
        access.replace_keys(gateway, config.keyring)
        wanted = {model.deployment.key: model for model in config.models}
        addresses = {_uid(key, one): (key, one) for key, model in wanted.items() for one in model.addresses}
        known = {_uid(key, one): (key, one) for key, model in self._models.items() for one in model.addresses}
        for uid in known.keys() - addresses.keys():
            self._replace(uid, group.create_task(self._retire(directory, known[uid][0], uid)))
        for key in self._models.keys() - wanted.keys():
            directory.drop_deployment(key)
        for key, model in wanted.items():
            before = self._models.get(key)
            if before is None or before.deployment != model.deployment:
                directory.put_deployment(model.deployment)
        for uid, (key, address) in addresses.items():
            if known.get(uid) != (key, address):
                self._replace(uid, group.create_task(_follow(directory, checks, key, address)))
        self._models = wanted

    def _replace(self, uid: str, task: asyncio.Task[None]) -> None:
        if (before := self._followers.get(uid)) is not None:
            before.cancel()
        self._followers[uid] = task

    async def _retire(self, directory: Directory, key: Key, uid: str) -> None:
        """Give an endpoint that is no longer listed nothing more to do, and forget it when it is done."""
        candidate = directory.find_candidate(key, uid)
        if candidate is not None:
            directory.put_endpoint(replace(candidate.endpoint, ready=False))
            while candidate.in_flight:  # noqa: ASYNC110  the end of a request rings for nobody but its line
                await asyncio.sleep(LOOK_SECONDS)
            directory.drop_endpoint(uid)
        del self._followers[uid]


class _NotReady(Exception):  # noqa: N818  a finding, not a failure of Lull
    """Why an engine gets no requests."""


class _Slow(_NotReady):
    """It may only be busy."""


class _Lost(_Slow):
    """Nothing answers at its address: no engine, and no machine that would say so."""


@dataclass(frozen=True, slots=True)
class Checks:
    """Health checks of all engines of a file, so many at a time."""

    session: aiohttp.ClientSession
    slots: asyncio.Semaphore

    async def ask(self, host: str, address: Address) -> None:
        """_NotReady, with the reason, where an engine does not say at this host that it serves."""
        try:
            async with self._get(host, address, address.health) as response:
                if response.status != 200:
                    raise _NotReady(f"GET {address.health} answers {response.status}")
        except aiohttp.ConnectionTimeoutError as error:
            raise _Lost("nothing answers at its address") from error
        except TimeoutError as error:
            raise _Slow(f"GET {address.health} takes longer than {ANSWER_SECONDS:g}s") from error
        except aiohttp.ClientError as error:
            raise _NotReady(str(error)) from error

    async def find_missing(self, host: str, address: Address) -> list[str]:
        """Names of the file that an engine has not, if it says which it has: it would answer 404 to them."""
        try:
            async with self._get(host, address, PATH_MODELS) as response:
                content = orjson.loads(await response.content.read(_LIST_BYTES))
            known = {card["id"] for card in content["data"]}
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            return []
        return [name for name in address.names if name not in known]

    @asynccontextmanager
    async def _get(self, host: str, address: Address, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        url = f"{render_origin(host, address.port)}{path}"
        async with (
            self.slots,
            self.session.get(url, headers={"Host": address.netloc}, allow_redirects=False) as response,
        ):
            yield response


async def _follow(directory: Directory, checks: Checks, key: Key, address: Address) -> None:
    """Check one engine for ever. Its name is looked up here, so that no request waits for a resolver."""
    log = structlog.get_logger("lull.gateway").bind(model=key.name, endpoint=address.url)
    uid = _uid(key, address)
    before = directory.find_candidate(key, uid)
    endpoint = before.endpoint if before else Endpoint(uid, address.netloc, key, "", address.port, ready=False)
    hosts: Sequence[str] = ()
    look_up_at = clock.monotonic()
    slow = lost = 0
    said = ""
    while True:
        if clock.monotonic() >= look_up_at or not endpoint.ready:
            hosts = await _resolve(address.host) or hosts
            look_up_at = clock.monotonic() + RESOLVE_SECONDS
        host, reason = await _find_serving(checks, address, _order(hosts, endpoint.host))
        slow = slow + 1 if isinstance(reason, _Slow) else 0
        lost = lost + 1 if isinstance(reason, _Lost) else 0
        if reason is None:
            found = replace(endpoint, host=host, ready=True)
        else:
            found = replace(endpoint, ready=endpoint.ready and 0 < slow < SLOW_CHECKS)
        if found != endpoint:
            directory.put_endpoint(found)
        if lost == LOST_CHECKS:
            directory.drop_endpoint(uid)
        if found.ready and not endpoint.ready:
            log.info("endpoint ready")
            if missing := await checks.find_missing(host, address):
                log.warning("engine has no such model", names=missing)
            said = ""
        elif not found.ready and str(reason) != said:
            said = str(reason)
            log.warning("endpoint not ready", reason=said)
        endpoint = found
        await asyncio.sleep(CHECK_SECONDS)


async def _find_serving(checks: Checks, address: Address, hosts: Sequence[str]) -> tuple[str, _NotReady | None]:
    """The first host that serves, or why the first of them does not."""
    first: _NotReady | None = None
    for host in hosts:
        try:
            await checks.ask(host, address)
        except _NotReady as reason:
            first = first or reason
        else:
            return host, None
    return "", first or _NotReady(f"the name {address.host} has no address")


async def _resolve(host: str) -> list[str]:
    """Addresses of a name; none where it has none, or nobody says so in time."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))[:MAX_ADDRESSES]


def _order(hosts: Sequence[str], current: str) -> Sequence[str]:
    """The one in use first, while the name still stands for it."""
    return [current, *(host for host in hosts if host != current)] if current in hosts else hosts


def _uid(key: Key, address: Address) -> str:
    return f"{key.name}@{address.url}"
