"""`lull render FILE`: the children of an LLMDeployment, from the same functions as in the operator."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer
import yaml

from lull.api import names
from lull.api.llmdeployment import InvalidSpec, parse_llmdeployment
from lull.cli.yamls import render_yaml
from lull.core.manifests import build
from lull.core.manifests.settings import build_settings
from lull.core.observed import Observed
from lull.core.planning import plan
from lull.settings import OperatorSettings

if TYPE_CHECKING:
    from pathlib import Path

    from lull.api.llmdeployment import Manifest
    from lull.core.manifests import BuildSettings


def render_file(file: Path, *, namespace: str, pod_monitors: bool = False) -> str:
    """What the operator's first apply would write for each LLMDeployment of a file.

    `LULL_*` variables stand for the operator's settings. Children lack the reference to their owner, whose uid
    only a cluster can give.
    """
    settings = replace(build_settings(OperatorSettings()), serves_pod_monitors=pod_monitors)
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except (OSError, yaml.YAMLError) as error:
        raise _refuse(f"{file}: {error}") from error
    models = [document for document in documents if _is_model(document)]
    if not models:
        raise _refuse(f"{file}: holds no {names.KIND} of {names.API_VERSION}")
    return render_yaml(child for model in models for child in _render(model, namespace, settings))


def _render(model: Manifest, namespace: str, settings: BuildSettings) -> tuple[Manifest, ...]:
    metadata = {"namespace": namespace, **(model.get("metadata") or {})}
    try:
        desired = build(parse_llmdeployment({**model, "metadata": metadata}), settings)
    except InvalidSpec as error:
        raise _refuse(f"{metadata.get('name')}: {error}") from error
    return plan(desired, Observed()).apply


def _is_model(document: Any) -> bool:  # noqa: ANN401  whatever a file holds
    return (
        isinstance(document, dict)
        and document.get("apiVersion") == names.API_VERSION
        and document.get("kind") == names.KIND
    )


def _refuse(message: str) -> typer.Exit:
    print(f"lull render: {message}", file=sys.stderr)
    return typer.Exit(1)
