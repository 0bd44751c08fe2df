"""The Kopf shell: whatever happens to an LLMDeployment puts its key into our queue, no more.

Kopf watches, authenticates and reconnects. It writes nothing: no finalizer, no annotation, no Event, so that objects
can be deleted with the operator gone. It keeps no index, as its own would keep what was deleted while it looked away:
what there is, and whatever happens to children, the store knows.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import kopf

from lull.api import names
from lull.api.llmdeployment import Key

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator


class EndlessBackoffs:
    """Pauses between tries that never run out: an API server that is gone for an hour is waited for.

    Kopf ends the operator where its pauses do, and iterates anew for each request.
    """

    def __iter__(self) -> Iterator[float]:
        pause = 0.5
        while True:
            yield pause * random.uniform(0.5, 1.0)  # noqa: S311  spreads retries only
            pause = min(pause * 2, 15.0)


class NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no picture of objects: nobody here asks what changed, and each would cost two deep copies of an event."""

    def build(self, **_: Any) -> kopf.BodyEssence:  # noqa: ANN401  Kopf's own shape
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:  # noqa: ANN401  Kopf's own shape
        return None

    def store(self, **_: Any) -> None:  # noqa: ANN401  Kopf's own shape
        return None


def build_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.posting.enabled = False
    settings.posting.loggers = False
    # The kinds are known and there before we start; looking for others takes rights on all CRDs and namespaces.
    settings.scanning.disabled = True
    settings.networking.error_backoffs = EndlessBackoffs()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 360
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    settings.process.ultimate_exiting_timeout = None
    return settings


def build_registry(enqueue: Callable[[Key], None]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401  Kopf's own shape
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
    async def enqueue_deployment(*, namespace: str | None, name: str, **_: Any) -> None:  # noqa: ANN401
        enqueue(Key(namespace or "", name))

    return registry


async def run(enqueue: Callable[[Key], None], *, namespace: str | None, started: asyncio.Event) -> None:
    """Watch for ever. Ends only with an error that no waiting mends, for the process to end with it."""
    await kopf.operator(
        registry=build_registry(enqueue),
        settings=build_settings(),
        standalone=True,
        clusterwide=namespace is None,
        namespaces=() if namespace is None else (namespace,),
        ready_flag=started,
    )
