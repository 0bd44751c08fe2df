"""What is answered without an engine: the models that there are, and every path that there is not."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from lull.gateway import access
from lull.gateway.reply import JSON
from lull.wire.openai import (
    INFERENCE_PATHS,
    PATH_MODELS,
    ModelCard,
    Refusal,
    parse_model_path,
    render_model,
    render_models,
    unavailable,
    unknown_model,
)

if TYPE_CHECKING:
    from lull.core.catalogue import Catalogue
    from lull.gateway.exchange import Exchange, Gateway

RETRY_AFTER_UNSYNCED = 5.0


def answer(gateway: Gateway, exchange: Exchange) -> None:
    """The allow-list: exactly these paths exist, compared as they were sent."""
    try:
        body = _answer(gateway, exchange)
    except Refusal as refusal:
        exchange.reply.refuse(refusal)
    else:
        exchange.reply.send(200, JSON, body)


def not_synced() -> Refusal:
    """What is said while the list of models is not up to date: then nobody knows what is unknown."""
    return unavailable(
        503, "The gateway has no current list of models.", code="not_ready", retry_after=RETRY_AFTER_UNSYNCED
    )


def _answer(gateway: Gateway, exchange: Exchange) -> bytes:
    method, path = exchange.method, exchange.path
    name = parse_model_path(path)
    if path in INFERENCE_PATHS:
        raise _wrong_method(path, "POST")
    if path != PATH_MODELS and name is None:
        raise Refusal(404, "There is nothing at this path.", code="unknown_path")
    if method not in {"GET", "HEAD"}:
        raise _wrong_method(path, "GET")
    exchange.key = access.identify(gateway, exchange)
    if not gateway.directory.is_synced:
        raise not_synced()
    catalogue = gateway.directory.catalogue
    names = access.list_names(exchange.key, catalogue.names)
    if name is None:
        return render_models(_describe(catalogue, each) for each in names)
    if name not in names:
        raise unknown_model(name, names)
    return render_model(_describe(catalogue, name))


def _describe(catalogue: Catalogue, name: str) -> ModelCard:
    """As vLLM does: where it comes from, and of an adapter the model that it goes on top of."""
    deployment = catalogue.deployments[catalogue.names[name]]
    adapter = catalogue.adapters.get(name)
    return ModelCard(
        name,
        created=_created(deployment.created_at),
        root=(deployment.spec.model.source if adapter is None else adapter.source) or None,
        parent=None if adapter is None else deployment.served_names[0],
    )


def _created(created_at: str) -> int:
    return int(datetime.fromisoformat(created_at).timestamp()) if created_at else 0


def _wrong_method(path: str, allowed: str) -> Refusal:
    return Refusal(405, f"{path} takes {allowed} only.", code="method_not_allowed", headers={"Allow": allowed})
