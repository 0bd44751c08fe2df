"""What the children of an LLMDeployment have in common."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.llmdeployment import InvalidSpec, LLMDeployment, Manifest, owner_reference
from lull.core.manifests.pods import common_labels, pool_labels

if TYPE_CHECKING:
    from lull.api.placement import PoolSpec
    from lull.core.manifests.settings import BuildSettings

TEMPLATE_LIMIT: Final = 192 * 1024
"""Bytes of a rendered template: it is kept in an annotation, and all annotations together may have 256 KiB."""


def build_workload_metadata(deployment: LLMDeployment, pool: PoolSpec, settings: BuildSettings) -> Manifest:
    nodes = deployment.spec.accelerator.nodes_per_replica
    return {
        **build_metadata(deployment, names.workload(deployment.key.name, pool.name, nodes=nodes), settings),
        "labels": {**common_labels(deployment, settings), **pool_labels(deployment, pool)},
    }


def build_metadata(deployment: LLMDeployment, name: str, settings: BuildSettings) -> Manifest:
    return {
        "name": name,
        "namespace": deployment.key.namespace,
        "labels": common_labels(deployment, settings),
        # What was read from a file has no uid yet; a reference to nothing would have its bearer collected as garbage.
        **({"ownerReferences": [owner_reference(deployment)]} if deployment.uid else {}),
    }


def freeze(template: Manifest) -> str:
    """The template as it is kept in its workload's annotation; InvalidSpec where it does not fit there."""
    rendered = canonical(template)
    if len(rendered.encode()) > TEMPLATE_LIMIT:
        raise InvalidSpec(
            f"spec.engine's extraArgs and env and spec.podTemplate are too long together: the pod takes "
            f"{len(rendered.encode()) // 1024} KiB, at most {TEMPLATE_LIMIT // 1024} KiB fit; put long values into a "
            "file of the image"
        )
    return rendered


def canonical(value: Manifest) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
