"""The Kopf shell: whatever happens to an LLMDeployment or to what it owns puts its key into our queue, no more.

Kopf watches, authenticates and reconnects. It writes nothing: no finalizer, no annotation, no Event, so that objects
can be deleted with the operator gone. It keeps no index: what it may have missed, the reconcile lists for itself.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

import kopf

from lull.api import names
from lull.api.llmdeployment import Key
from lull.doors.kube import DEPLOYMENTS, NETWORK_POLICIES, POD_DISRUPTION_BUDGETS, PODS, SERVICES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping

    from lull.doors.kube import Resource

_OWNED: Final = (DEPLOYMENTS, SERVICES, NETWORK_POLICIES, POD_DISRUPTION_BUDGETS, PODS)


class EndlessBackoffs:
    """Pauses between tries that never run out: an API server that is gone for an hour is waited for.

    Kopf ends the operator where its pauses do, and iterates anew for each request.
    """

    def __iter__(self) -> Iterator[float]:
        pause = 0.5
        while True:
            yield pause * random.uniform(0.5, 1.0)  # noqa: S311  spreads retries only
            pause = min(pause * 2, 15.0)


def build_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
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
    for resource in _OWNED:
        settings.watching.label_selectors[_selector(resource)] = names.LABEL_DEPLOYMENT
    return settings


def build_registry(enqueue: Callable[[Key], None]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401  Kopf's own shape
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
    async def enqueue_deployment(*, namespace: str | None, name: str, **_: Any) -> None:  # noqa: ANN401
        enqueue(Key(namespace or "", name))

    async def enqueue_owner(*, namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:  # noqa: ANN401
        enqueue(Key(namespace or "", labels[names.LABEL_DEPLOYMENT]))

    for resource in _OWNED:
        watch = kopf.on.event(*_selector(resource), labels={names.LABEL_DEPLOYMENT: kopf.PRESENT}, registry=registry)
        watch(enqueue_owner)
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


def _selector(resource: Resource) -> tuple[str, str, str]:
    group, _, version = resource.api_version.rpartition("/")
    return group, version, resource.plural
