"""The one Kubernetes seam: seven verbs over raw objects, with credentials from kubernetes.aio.

Server-side apply is the only way that objects are written; the generated model classes are never used.
"""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp
import orjson
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import (
    ConfigException,
    list_kube_config_contexts,
    load_incluster_config,
    load_kube_config,
)

from lull.api import names
from lull.doors import clock
from lull.doors.retrying import backoff

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping

    from lull.api.llmdeployment import Manifest

REQUEST_TIMEOUT: Final = 30.0
CONNECT_TIMEOUT: Final = 5.0
WATCH_SECONDS: Final = 290
"""How long the server keeps a watch open; a little less than the five minutes that proxies like to cut at."""
WATCH_SILENCE: Final = 70.0
"""A watch without a frame for so long is dead: the API server sends a bookmark each minute."""
WATCH_LEAST: Final = 1.0
"""A watch that ends sooner counts as a failure, however well it ended."""
LIST_LIMIT: Final = 500
_NO_VERSION: Final = "1"
"""A resource version that no object ever has: the API server itself took it at its very beginning."""
RELIST_MOST: Final = 5.0
"""Longest pause between tries to reach an API server that is away: so late at most is its return noticed."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object as the API server addresses it."""

    api_version: str
    kind: str
    plural: str

    @property
    def root(self) -> str:
        return f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"


LLMDEPLOYMENTS: Final = Resource(names.API_VERSION, names.KIND, names.PLURAL)
DEPLOYMENTS: Final = Resource("apps/v1", "Deployment", "deployments")
SERVICES: Final = Resource("v1", "Service", "services")
PODS: Final = Resource("v1", "Pod", "pods")
EVENTS: Final = Resource("v1", "Event", "events")
SECRETS: Final = Resource("v1", "Secret", "secrets")
LEASES: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
NODES: Final = Resource("v1", "Node", "nodes")
PERSISTENT_VOLUME_CLAIMS: Final = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
NETWORK_POLICIES: Final = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
POD_DISRUPTION_BUDGETS: Final = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
ACCESS_REVIEWS: Final = Resource("authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews")
LEADER_WORKER_SETS: Final = Resource("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets")
POD_MONITORS: Final = Resource("monitoring.coreos.com/v1", "PodMonitor", "podmonitors")

_GOODBYE_SECONDS: Final = 0.1
RESOURCES: Final = {
    resource.kind: resource
    for resource in (
        LLMDEPLOYMENTS,
        DEPLOYMENTS,
        SERVICES,
        PODS,
        EVENTS,
        SECRETS,
        LEASES,
        NETWORK_POLICIES,
        POD_DISRUPTION_BUDGETS,
        PERSISTENT_VOLUME_CLAIMS,
        LEADER_WORKER_SETS,
        POD_MONITORS,
        ACCESS_REVIEWS,
    )
}


class Transient(Exception):  # noqa: N818  one of the three failures: retry with back-off
    """The request may succeed later: a time-out, a lost connection, 409, 429 or 5xx."""


class Conflict(Transient):
    """Somebody else was faster, or holds what we want: 409."""


class Gone(Transient):
    """The watch's resource version is too old: list again."""


class Refused(Exception):  # noqa: N818  the API server's final no
    """The API server says no for good: forbidden, invalid, or a kind that does not exist."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Listing:
    items: tuple[Manifest, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    type: str
    """ADDED, MODIFIED, DELETED or BOOKMARK."""
    object: Manifest


def _keep(manifest: Manifest) -> Manifest:
    return manifest


class Kube:
    """A connection to one API server."""

    def __init__(self, session: aiohttp.ClientSession, configuration: Configuration) -> None:
        self._session = session
        self._configuration = configuration

    async def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """The object, or None where there is none."""
        try:
            return await self._request("GET", _path(resource, namespace, name))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        trim: Callable[[Manifest], Manifest] = _keep,
    ) -> Listing:
        """Every object that matches, trimmed, read page by page from one consistent snapshot."""
        items: list[Manifest] = []
        query = {"limit": str(LIST_LIMIT), "labelSelector": labels, "fieldSelector": fields}
        while True:
            page = await self._request("GET", _path(resource, namespace), query=query)
            # Items of a list carry neither kind nor apiVersion; give them back what a single get has.
            items += [
                trim({"apiVersion": resource.api_version, "kind": resource.kind, **item}) for item in page["items"]
            ]
            metadata = page["metadata"]
            if not metadata.get("continue"):
                return Listing(tuple(items), metadata["resourceVersion"])
            query["continue"] = metadata["continue"]

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes since a resource version until the server ends the watch; Gone where it is too old."""
        query = {
            "watch": "1",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "labelSelector": labels,
            "fieldSelector": fields,
            "timeoutSeconds": str(WATCH_SECONDS + random.randrange(20)),  # noqa: S311  spreads reconnects only
        }
        path = _path(resource, namespace)
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT, sock_read=WATCH_SILENCE)
        with _transient(f"watch {path}"):
            async with self._session.get(
                self._configuration.host + path, params=query, headers=await self._headers(), timeout=timeout
            ) as response:
                if response.status != 200:
                    raise _failure(response.status, await response.read())
                async with aclosing(_lines(response.content)) as lines:
                    async for line in lines:
                        frame = orjson.loads(line)
                        if frame["type"] == "ERROR":
                            raise _failure(frame["object"].get("code", 500), orjson.dumps(frame["object"]))
                        yield WatchEvent(frame["type"], frame["object"])

    async def apply(
        self, manifest: Manifest, *, manager: str = names.MANAGER_CONTROLLER, force: bool = True
    ) -> Manifest:
        """Server-side apply of the full object; an unchanged apply changes no resource version.

        Without force, a field that another manager holds at another value is a Conflict.
        """
        resource = RESOURCES[manifest["kind"]]
        metadata = manifest["metadata"]
        return await self._request(
            "PATCH",
            _path(resource, metadata["namespace"], metadata["name"]),
            query={"fieldManager": manager, "force": "true" if force else "false"},
            body=manifest,
            content_type="application/apply-patch+yaml",
        )

    async def apply_new(self, manifest: Manifest) -> Manifest:
        """Server-side apply of an object that must not exist yet; Conflict where one of its name does.

        A plain apply would merge into whatever bears the name.
        """
        return await self.apply(
            {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": _NO_VERSION}}, force=False
        )

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        """Delete this very object, not a namesake made since; one that is gone already is fine."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._request("DELETE", _path(resource, namespace, name), body=body)
        except Refused as error:
            if error.status != 404:
                raise

    async def patch_status(self, resource: Resource, seen: Manifest, status: Manifest) -> Manifest:
        """Replace fields of `status` by merge patch; keys that are absent are left, None removes.

        Transient (409) where the object is no longer the one that was seen: what was concluded of it may not hold
        any more, least of all for a namesake made since.
        """
        metadata = seen["metadata"]
        return await self._request(
            "PATCH",
            _path(resource, metadata["namespace"], metadata["name"]) + "/status",
            query={"fieldManager": names.MANAGER_CONTROLLER},
            body={"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": status},
            content_type="application/merge-patch+json",
        )

    async def scale(self, resource: Resource, namespace: str, name: str, *, replicas: int) -> None:
        """Set the replica count, as its one writer.

        Applied rather than updated, so that the autoscaler owns the field even where the number does not
        change; the reconciler's applies then leave it alone. Through /scale, except where that belongs to a custom
        resource: the API server cannot apply those, so theirs is applied on the object, and nothing but it.
        """
        path = _path(resource, namespace, name)
        is_custom = resource is not DEPLOYMENTS
        await self._request(
            "PATCH",
            path if is_custom else f"{path}/scale",
            query={"fieldManager": names.MANAGER_AUTOSCALER, "force": "true"},
            body={
                "apiVersion": resource.api_version if is_custom else "autoscaling/v1",
                "kind": resource.kind if is_custom else "Scale",
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"replicas": replicas},
            },
            content_type="application/apply-patch+yaml",
        )

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object that must not exist yet: Events, the Lease before its first holder, reviews of access."""
        return await self._request(
            "POST", _path(RESOURCES[manifest["kind"]], manifest["metadata"].get("namespace")), body=manifest
        )

    async def read(self, path: str) -> Manifest | None:
        """What an address that is no object of ours answers, such as /version; None where there is none."""
        try:
            return await self._request("GET", path)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    async def replace(self, manifest: Manifest, *, deadline: float = REQUEST_TIMEOUT) -> Manifest:
        """Write an object back as it was read; Transient (409) where somebody else wrote in between."""
        metadata = manifest["metadata"]
        path = _path(RESOURCES[manifest["kind"]], metadata["namespace"], metadata["name"])
        return await self._request("PUT", path, body=manifest, deadline=deadline)

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server knows the kind, as its discovery says."""
        try:
            served = await self._request("GET", resource.root)
        except Refused as error:
            if error.status == 404:
                return False
            raise
        return any(one["name"] == resource.plural for one in served["resources"])

    async def _headers(self, content_type: str | None = None) -> dict[str, str]:
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        return {
            "Accept": "application/json",
            # In a cluster's own network, packing and unpacking a list takes longer than sending it.
            "Accept-Encoding": "identity",
            **({"Authorization": token} if token else {}),
            **({"Content-Type": content_type} if content_type else {}),
        }

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = "application/json",
        deadline: float = REQUEST_TIMEOUT,
    ) -> Manifest:
        with _transient(f"{method} {path}"):
            async with self._session.request(
                method,
                self._configuration.host + path,
                params=query,
                data=None if body is None else orjson.dumps(body),
                headers=await self._headers(None if body is None else content_type),
                timeout=aiohttp.ClientTimeout(total=deadline, connect=CONNECT_TIMEOUT),
            ) as response:
                content = await response.read()
                if response.status >= 400:
                    raise _failure(response.status, content)
                answer: Manifest = orjson.loads(content)
                return answer


@asynccontextmanager
async def connect(kubeconfig: str | None = None, *, context: str | None = None) -> AsyncIterator[Kube]:
    """Connect as the pod's service account, or with the user's kubeconfig outside a cluster.

    ConfigException where there is neither, or no such context.
    """
    configuration = Configuration()
    if kubeconfig is None and context is None:
        try:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except ConfigException:
            await load_kube_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration, persist_config=False
            )
    else:
        await load_kube_config(  # type: ignore[no-untyped-call]
            config_file=kubeconfig, context=context, client_configuration=configuration, persist_config=False
        )
    tls = RESTClientObject(configuration)
    connector = aiohttp.TCPConnector(ssl=tls.ssl_context, limit=100, limit_per_host=100)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=2**21) as session:
        yield Kube(session, configuration)
    # TLS says goodbye in turns of the event loop that come after; a loop that ends before leaves sockets open.
    await asyncio.sleep(_GOODBYE_SECONDS)


def find_namespace(context: str | None = None) -> str:
    """The namespace that a context of the user's kubeconfig names; `default` where it names none."""
    contexts, active = list_kube_config_contexts()  # type: ignore[no-untyped-call]
    chosen = active if context is None else next((one for one in contexts if one["name"] == context), None)
    namespace: str = ((chosen or {}).get("context") or {}).get("namespace") or "default"
    return namespace


def _ignore() -> None:
    return None


async def reflect(
    kube: Kube,
    resource: Resource,
    on_change: Callable[[WatchEvent], Awaitable[None] | None],
    *,
    namespace: str | None = None,
    labels: str = "",
    fields: str = "",
    trim: Callable[[Manifest], Manifest] = _keep,
    relist_seconds: float = math.inf,
    is_optional: bool = False,
    on_synced: Callable[[], None] = _ignore,
    on_lost: Callable[[], None] = _ignore,
    on_alive: Callable[[], None] = _ignore,
) -> None:
    """List, then watch, for ever; after a gap report what changed meanwhile, deletions included.

    `on_change` gets one event per object and change, the object trimmed. Failures of the API server, of any length,
    are waited out: what was last known stays valid to the caller. `on_lost` is called when what is known may have
    become old, `on_synced` after each list that brings it up to date, `on_alive` with every frame and every try, so
    that a watch that hangs can be told from an API server that is gone. A watch that ends after `relist_seconds` is
    followed by a list, in case it kept something to itself. An optional kind that does not exist, or that we may not
    read, ends the reflection.
    """
    known: dict[tuple[str, str], Manifest] = {}
    version = ""
    listed = 0.0
    failures = 0
    while True:
        on_alive()
        began = math.inf
        try:
            if not version:
                listing = await kube.list(resource, namespace=namespace, labels=labels, fields=fields, trim=trim)
                for event in _differences(known, listing):
                    await _report(on_change, event)
                known = {_identity(item): item for item in listing.items}
                version = listing.resource_version
                listed = clock.monotonic()
                on_synced()
            began = clock.monotonic()
            watch = kube.watch(resource, resource_version=version, namespace=namespace, labels=labels, fields=fields)
            async with aclosing(watch) as events:
                async for event in events:
                    on_alive()
                    version = event.object["metadata"]["resourceVersion"]
                    if event.type != "BOOKMARK":
                        trimmed = WatchEvent(event.type, trim(event.object))
                        _learn(known, trimmed)
                        await _report(on_change, trimmed)
            if clock.monotonic() - listed >= relist_seconds:
                version = ""
        except (Transient, Refused) as error:
            # Refused too: RBAC may be granted, or the CRD installed, a moment later.
            version = ""
            on_lost()
            if is_optional and isinstance(error, Refused) and error.status in {403, 404}:
                return
        # However it ended: a server or proxy that ends each watch at once is not to be asked without a pause.
        failures = 0 if clock.monotonic() - began >= WATCH_LEAST else failures + 1
        if failures:
            await asyncio.sleep(backoff(failures, most=RELIST_MOST))


def _learn(known: dict[tuple[str, str], Manifest], event: WatchEvent) -> None:
    if event.type == "DELETED":
        known.pop(_identity(event.object), None)
    else:
        known[_identity(event.object)] = event.object


async def _report(on_change: Callable[[WatchEvent], Awaitable[None] | None], event: WatchEvent) -> None:
    waiting = on_change(event)
    if waiting is not None:
        await waiting


def _differences(known: Mapping[tuple[str, str], Manifest], listing: Listing) -> list[WatchEvent]:
    listed = {_identity(item): item for item in listing.items}
    return [
        *(
            WatchEvent("DELETED", _at_version(gone, listing.resource_version))
            for identity, gone in known.items()
            if identity not in listed
        ),
        *(
            WatchEvent("MODIFIED" if identity in known else "ADDED", item)
            for identity, item in listed.items()
            if known.get(identity, {}).get("metadata", {}).get("resourceVersion") != item["metadata"]["resourceVersion"]
        ),
    ]


def _at_version(manifest: Manifest, version: str) -> Manifest:
    """As a watch tells of a deletion: with the version at which the object is no longer there."""
    return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": version}}


def _identity(manifest: Manifest) -> tuple[str, str]:
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _path(resource: Resource, namespace: str | None, name: str | None = None) -> str:
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{resource.root}{scope}/{resource.plural}" + (f"/{name}" if name else "")


def _failure(status: int, content: bytes) -> Exception:
    try:
        message = orjson.loads(content)["message"]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        message = content[:200].decode("utf-8", "replace")
    if status == 410:
        return Gone(message)
    if status == 409:
        return Conflict(f"{status}: {message}")
    if status in {408, 429} or status >= 500:
        return Transient(f"{status}: {message}")
    return Refused(status, message)


class _transient:  # noqa: N801  reads as the block that it is
    """Turn time-outs, lost connections and what is not the API server's JSON into Transient.

    A proxy in front of it has pages of its own, and a connection that breaks may leave half of an object.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, aiohttp.ClientError | TimeoutError | OSError | orjson.JSONDecodeError):
            raise Transient(f"{self._what}: {type(error).__name__} {error}") from error


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Whole lines, however long: one object may be far larger than the reader's own line limit."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
