"""The LLMDeployment object and the one place where its JSON becomes a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import ValidationError

from lull.api import names
from lull.api.quantities import parse_duration
from lull.api.reasons import Reason
from lull.api.spec import ENGINE_IMAGES, LLMDeploymentSpec
from lull.api.status import LLMDeploymentStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

Manifest = dict[str, Any]
"""A Kubernetes object as JSON: the only untyped value that travels past a `parse_*`."""

ADAPTER_NAME_RULE: Final = (
    "an adapter must not have the LLMDeployment's name, which is the model's: set spec.model.name"
)

FALLBACK_NAME_RULE: Final = (
    "fallback and routes must not name the LLMDeployment itself: its name is the model's, as spec.model.name is not set"
)


class InvalidSpec(ValueError):  # noqa: N818  reads as what it says of the object
    """The object cannot work as written; the message says what to change. Retrying does not help."""

    def __init__(self, message: str, reason: Reason = Reason.INVALID_SPEC) -> None:
        super().__init__(message)
        self.reason = reason


class Key(NamedTuple):
    """Namespace and name of an LLMDeployment.

    A tuple, since the gateway looks up a dozen things by it for each request, and a tuple's hash costs no call.
    """

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class LLMDeployment:
    key: Key
    uid: str
    generation: int
    created_at: str
    """RFC 3339, as the API server wrote it; it sorts as text."""
    deleting: bool
    spec: LLMDeploymentSpec
    status: LLMDeploymentStatus
    labels: Mapping[str, str] = field(default_factory=dict)
    """Those that its author put on the object."""
    wake: str = ""
    """The annotation lull.dev/wake, as it is written."""

    @property
    def served_names(self) -> tuple[str, ...]:
        """Names that clients may send as "model": the first one is the engine's own."""
        first = self.spec.model.name or self.key.name
        return (first, *(alias for alias in self.spec.model.aliases if alias != first))

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names that clients may send as "model" to get an adapter on top of the model."""
        return tuple(adapter.name for adapter in self.spec.adapters.items) if self.spec.adapters else ()

    @property
    def cold_start(self) -> float | None:
        """Seconds that the last measured one took; None before that."""
        measured = self.status.cold_start
        if measured is None:
            return None
        try:
            return parse_duration(measured.total)
        except ValueError:
            # Status may come from another version of Lull; a door must not close over that.
            return None

    @property
    def engine_image(self) -> str:
        """Image of the engine: what the spec says, else the one that was chosen first, else this version's."""
        chosen, vendor = self.status.engine, self.spec.accelerator.vendor
        if self.spec.engine.image is not None:
            return self.spec.engine.image
        return chosen.image if chosen is not None and chosen.vendor is vendor else ENGINE_IMAGES[vendor]


def parse_llmdeployment(manifest: Manifest) -> LLMDeployment:
    """Read an object from the cluster or a file; InvalidSpec names each field that is wrong."""
    metadata = manifest.get("metadata") or {}
    try:
        spec = LLMDeploymentSpec.model_validate(manifest.get("spec") or {})
    except ValidationError as error:
        raise InvalidSpec(render_validation_error(error, root="spec")) from error
    if twice := spec.duplicates():
        raise InvalidSpec("; ".join(twice))
    name = metadata.get("name") or ""
    if spec.adapters is not None and spec.model.name is None and name in {item.name for item in spec.adapters.items}:
        raise InvalidSpec(ADAPTER_NAME_RULE)
    if spec.model.name is None and name in {*spec.fallback, *(route.model for route in spec.routes)}:
        raise InvalidSpec(FALLBACK_NAME_RULE)
    try:
        status = LLMDeploymentStatus.model_validate(manifest.get("status") or {})
    except ValidationError:
        # Status is ours to rebuild from what is observed; one that we cannot read must not stop serving.
        status = LLMDeploymentStatus()
    return LLMDeployment(
        key=Key(metadata.get("namespace") or "default", name),
        uid=metadata.get("uid") or "",
        generation=metadata.get("generation") or 0,
        created_at=metadata.get("creationTimestamp") or "",
        deleting="deletionTimestamp" in metadata,
        spec=spec,
        status=status,
        labels=metadata.get("labels") or {},
        wake=(metadata.get("annotations") or {}).get(names.ANNOTATION_WAKE) or "",
    )


def owner_reference(deployment: LLMDeployment) -> Manifest:
    """The reference by which Kubernetes deletes children with their LLMDeployment, with no operator needed."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": deployment.key.name,
        "uid": deployment.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def render_validation_error(error: ValidationError, *, root: str) -> str:
    """One line per wrong field, by the path that a user wrote."""
    return "; ".join(
        f"{'.'.join((root, *(str(part) for part in problem['loc'])))}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_input=False)
    )
