"""What commands that ask a cluster have in common: the user's kubeconfig, and errors in one sentence."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from kubernetes.aio.config import ConfigException

from lull.doors.kube import LLMDEPLOYMENTS, Kube, Refused, Transient, connect, find_namespace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lull.api.llmdeployment import Manifest

T = TypeVar("T")


class Unreachable(Exception):  # noqa: N818  what the user reads
    """No cluster could be asked."""


def ask(work: Callable[[Kube], Awaitable[T]], *, context: str | None) -> T:
    """Do work with a connection to the cluster of the user's kubeconfig; Unreachable says what is wrong with it."""

    async def run() -> T:
        async with connect(context=context) as kube:
            return await work(kube)

    try:
        return asyncio.run(run())
    except ConfigException as error:
        raise Unreachable(f"no cluster to ask: {error}. Set KUBECONFIG, or --context") from error
    except Transient as error:
        raise Unreachable(f"the API server does not answer: {error}") from error
    except Refused as error:
        raise Unreachable(f"the API server refuses: {error.message}") from error


def choose_namespace(namespace: str | None, *, everywhere: bool, context: str | None) -> str | None:
    """The namespace to look at, None for all: what was asked for, else the context's own."""
    if everywhere:
        return None
    try:
        return namespace or find_namespace(context)
    except ConfigException:
        return "default"


async def find_one(kube: Kube, name: str, namespace: str) -> Manifest:
    """The LLMDeployment; LookupError where there is none."""
    found = await kube.get(LLMDEPLOYMENTS, namespace, name)
    if found is None:
        raise LookupError(f"there is no LLMDeployment {name} in namespace {namespace}")
    return found


def complain(command: str, error: Exception) -> int:
    """Say what went wrong; the exit code."""
    print(f"lull {command}: {error}", file=sys.stderr)
    return 1


def to_json(value: Any) -> Any:  # noqa: ANN401  any JSON
    """Dataclasses and API types as JSON with camelCase keys."""
    from dataclasses import fields, is_dataclass

    from pydantic import BaseModel
    from pydantic.alias_generators import to_camel

    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    if is_dataclass(value):
        return {to_camel(field.name): to_json(getattr(value, field.name)) for field in fields(value)}
    return [to_json(item) for item in value] if isinstance(value, tuple | list) else value
