"""Group, kinds, label keys and the names of children, in one place."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

GROUP: Final = "lull.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "LLMDeployment"
PLURAL: Final = "llmdeployments"
SINGULAR: Final = "llmdeployment"
SHORT_NAME: Final = "llm"

LABEL_DEPLOYMENT: Final = f"{GROUP}/deployment"
LABEL_POOL: Final = f"{GROUP}/pool"
LABEL_CAPACITY_TYPE: Final = f"{GROUP}/capacity-type"
LABEL_REVISION: Final = f"{GROUP}/revision"
LABEL_APP: Final = "app.kubernetes.io/name"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_NAMESPACE: Final = "kubernetes.io/metadata.name"
LABEL_MONITORING: Final = f"{GROUP}/monitoring"
"""Set to `true` on a namespace, it lets the Prometheus pods there reach engines."""

APP_LULL: Final = "lull"
APP_ENGINE: Final = "lull-engine"
COMPONENT_ENGINE: Final = "engine"
COMPONENT_WORKER: Final = "engine-worker"
"""Pods of a group that serve no requests themselves: all but the leader."""
MANAGED_BY: Final = "lull"

# The pod template as it was rendered for a revision, kept on the workload: a newer operator that renders
# differently re-applies these bytes, so that upgrading Lull never restarts an engine.
ANNOTATION_TEMPLATE: Final = f"{GROUP}/pod-template"

ANNOTATION_STORAGE_CLASS: Final = f"{GROUP}/storage-class"
"""On a claim, the StorageClass that it was created with where the spec named one: it cannot be changed later."""

ANNOTATION_WAKE: Final = f"{GROUP}/wake"
"""On an LLMDeployment, when somebody wanted it awake without a request: another value wakes it once more."""

CONDITION_ASLEEP: Final = f"{GROUP}/Asleep"
"""Condition of an engine pod that gateways are to spare: it sleeps, is about to, or is being woken."""

MANAGER_CONTROLLER: Final = "lull-controller"
"""Field manager of everything the reconciler writes."""
MANAGER_AUTOSCALER: Final = "lull-autoscaler"
"""Field manager of the children's replica counts, and of nothing else."""
MANAGER_WAKE: Final = "lull-wake"
"""Field manager of the annotation that `lull wake` sets."""

PORT_ENGINE: Final = 8000
PORT_ADAPTERS: Final = 8002
PORT_GATEWAY: Final = 8080
PORT_ADMIN: Final = 8081

# An LLMDeployment's name begins names of Services, which must start with a letter, and leaves room for suffixes.
NAME_PATTERN: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_LIMIT: Final = 40
NAME_RULE: Final = (
    f"metadata.name must be at most {NAME_LIMIT} lower-case letters, digits and hyphens, "
    "start with a letter and end with a letter or digit"
)

_MAX_NAME: Final = 52  # its ReplicaSets add "-<10 hex>", and 63 characters are what fits into a label
_MAX_GROUP_NAME: Final = 48  # a revision of its workers adds "-<group>-<10 hex>"


def child(deployment: str, *parts: str) -> str:
    """Name of a child object: readable while it fits, cut and given a digest when it does not."""
    return _cut("-".join((deployment, *parts)), _MAX_NAME)


def workload(deployment: str, pool: str, *, nodes: int) -> str:
    """Name of what runs a pool's replicas, each of which spans so many nodes."""
    return _cut(f"{deployment}-{pool}", _MAX_NAME if nodes == 1 else _MAX_GROUP_NAME)


def engine_labels(deployment: str) -> dict[str, str]:
    """Labels that select every engine pod of one LLMDeployment."""
    return {LABEL_COMPONENT: COMPONENT_ENGINE, LABEL_DEPLOYMENT: deployment}


def _cut(name: str, limit: int) -> str:
    if len(name) <= limit:
        return name
    digest = sha256(name.encode()).hexdigest()[:8]
    return f"{name[: limit - 9].rstrip('-.')}-{digest}"
