"""LLMDeployments for tests, and the settings that they are built with."""

from __future__ import annotations

from typing import Any

from lull.api.llmdeployment import LLMDeployment, Manifest, parse_llmdeployment
from lull.core.manifests import BuildSettings

SETTINGS = BuildSettings(
    image="lull/lull:0.1.0",
    image_pull_policy="IfNotPresent",
    hub_endpoint="https://huggingface.co",
    lull_namespace="lull-system",
)
UID = "6b1f3c1e-0000-4000-8000-000000000001"


def manifest(*, name: str = "llama-8b", namespace: str = "default", **spec: Any) -> Manifest:
    """An LLMDeployment as a user writes it; keywords go into its spec."""
    return {
        "apiVersion": "lull.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"source": "hf://org/name"}, **spec},
    }


def stored(written: Manifest, *, generation: int = 1, status: Manifest | None = None) -> LLMDeployment:
    """The same after an API server took it."""
    metadata = {
        "uid": UID,
        "generation": generation,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **written["metadata"],
    }
    return parse_llmdeployment({**written, "metadata": metadata, "status": status or {}})
