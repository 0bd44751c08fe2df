"""Findings on LLMDeployments in a file, each with its line: what would be refused, and what will be regretted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import yaml
from pydantic import ValidationError

from lull.api import names
from lull.api.compute import Vendor
from lull.api.llmdeployment import InvalidSpec, LLMDeployment, parse_llmdeployment
from lull.api.model import CacheType
from lull.api.quantities import parse_duration
from lull.api.schema import build_crd
from lull.api.spec import LLMDeploymentSpec
from lull.core.documents import Finding, Severity, find_yaml_error, parse_documents, render_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from lull.api.llmdeployment import Manifest
    from lull.core.documents import Document, Path


def lint(
    text: str, *, check: Callable[[LLMDeployment], None], beside: Collection[str] = frozenset()
) -> tuple[Finding, ...]:
    """Everything that can be said of a file without a cluster, by line.

    `check` raises InvalidSpec where an LLMDeployment cannot be rendered. `beside` are the names that are served by
    the LLMDeployments of all files, where these are several: then others are expected to be among them.
    """
    try:
        documents = parse_documents(text)
    except yaml.YAMLError as error:
        return (find_yaml_error(error),)
    models = [document for document in documents if _is_model(document.value)]
    if not models:
        return (Finding(1, Severity.ERROR, "", f"holds no {names.KIND} of {names.API_VERSION}"),)
    known = {*beside, *list_names(text)} if beside or len(models) > 1 else set()
    found = [finding for model in models for finding in _lint_model(model, check, known)]
    return tuple(sorted(found, key=lambda finding: (finding.line, finding.severity, finding.where)))


def list_names(text: str) -> tuple[str, ...]:
    """The names that the LLMDeployments of a file serve, as far as it can be read."""
    try:
        models = [document.value for document in parse_documents(text) if _is_model(document.value)]
    except yaml.YAMLError:
        return ()
    return tuple(name for model in models for name in _read_names(model))


def _read_names(manifest: Manifest) -> tuple[str, ...]:
    try:
        deployment = parse_llmdeployment(manifest)
    except InvalidSpec:
        return ()
    return (*deployment.served_names, *deployment.adapter_names)


def _lint_model(
    document: Document, check: Callable[[LLMDeployment], None], known_names: Collection[str]
) -> Iterator[Finding]:
    def at(path: Path, severity: Severity, message: str) -> Finding:
        return Finding(document.find_line(path), severity, render_path(path), message)

    for path, line in document.twice:
        yield Finding(line, Severity.ERROR, render_path(path), "stands twice; only the last one counts")
    for path in _unknown(document.value, _SCHEMA, ()):
        known = ", ".join(sorted(_fields(_SCHEMA, path[:-1])))
        yield at(path, Severity.ERROR, f"is no field of an {names.KIND}; there are: {known}")
    if document.value["apiVersion"] != names.API_VERSION:
        yield at(("apiVersion",), Severity.ERROR, f"is not {names.API_VERSION}")
    if "status" in document.value:
        yield at(("status",), Severity.WARNING, "is written by Lull; leave it out")
    problems = list(_problems(document.value, check))
    for path, message in problems:
        yield at(path, Severity.ERROR, message)
    if not problems:
        for path, message in (*_doubts(document), *_doubt_stand_ins(document, known_names)):
            yield at(path, Severity.WARNING, message)


def _problems(manifest: Manifest, check: Callable[[LLMDeployment], None]) -> Iterator[tuple[Path, str]]:
    try:
        LLMDeploymentSpec.model_validate(manifest.get("spec") or {})
    except ValidationError as error:
        messages: dict[Path, str] = {}
        for problem in error.errors(include_url=False, include_input=False):
            path = _fitting(("spec", *problem["loc"]), _SCHEMA)
            # A pattern tells nobody what to write; the description does. It stands for all types of a union, too.
            if problem["type"] == "string_pattern_mismatch":
                messages[path] = _describe(path)
            else:
                messages.setdefault(path, problem["msg"].removeprefix("Value error, "))
        yield from messages.items()
        return
    try:
        check(parse_llmdeployment(manifest))
    except InvalidSpec as error:
        path, message = _split_path(str(error))
        yield path, message


def _doubts(document: Document) -> Iterator[tuple[Path, str]]:
    deployment = parse_llmdeployment(document.value)
    spec = deployment.spec
    source = spec.model.source
    if source.startswith("hf://") and "@" not in source:
        yield (
            ("spec", "model", "source"),
            "names no revision: pods that start later may load other weights; add @<commit>",
        )
    if source.startswith("oci://") and "@sha256:" not in source:
        yield (
            ("spec", "model", "source"),
            "names no digest: pods that start later may load other weights; add @sha256:…",
        )
    image = spec.engine.image
    if image is not None and "@" not in image and (image.endswith(":latest") or ":" not in image.rpartition("/")[2]):
        yield ("spec", "engine", "image"), "is no fixed version: pods that start later may run another vLLM; name a tag"
    if spec.replicas is not None and ("spec", "scaling") in document.lines:
        yield ("spec", "replicas"), "stops Lull's own scaling: of spec.scaling only sleep has an effect beside it"
    if spec.model.trust_remote_code:
        yield ("spec", "model", "trustRemoteCode"), "runs code that comes with the model: pin the revision and read it"
    if spec.resources.memory is None:
        yield ("spec", "resources"), "sets no memory: the engine may take all of the node's and have others killed"
    target, seqs = spec.scaling.target.in_flight, spec.engine.max_num_seqs
    if target is not None and seqs is not None and target > seqs:
        yield (
            ("spec", "scaling", "target", "inFlight"),
            f"is more than engine.maxNumSeqs ({seqs}): requests wait inside the engine before another replica is added",
        )
    if spec.scaling.sleep is not None and spec.accelerator.vendor is Vendor.CPU:
        yield (
            ("spec", "scaling", "sleep"),
            "frees nothing on CPU: the engine keeps its memory and only stops to answer until it is woken",
        )
    if (
        spec.model.cache.type is CacheType.EPHEMERAL
        and spec.scaling.max_replicas >= _MANY
        and source.startswith("hf://")
    ):
        count = spec.scaling.max_replicas
        yield (
            ("spec", "model", "cache"),
            f"is Ephemeral: up to {count} replicas fetch the weights each; share them by type PersistentVolumeClaim",
        )


def _doubt_stand_ins(document: Document, known_names: Collection[str]) -> Iterator[tuple[Path, str]]:
    spec = parse_llmdeployment(document.value).spec
    named: list[tuple[Path, str]] = [
        *((("spec", "fallback", at), name) for at, name in enumerate(spec.fallback)),
        *((("spec", "routes", at, "model"), route.model) for at, route in enumerate(spec.routes)),
    ]
    for path, name in named:
        if known_names and name not in known_names:
            yield path, f'is "{name}", which no {names.KIND} here serves: it is passed over until one does'
    if spec.fallback and spec.scaling.min_replicas == 0 and parse_duration(spec.scaling.idle_after) < _WAKING:
        idle_after = spec.scaling.idle_after
        yield (
            ("spec", "fallback"),
            f"keeps a model asleep that sleeps after {idle_after}: set scaling.idleAfter to 10s or more",
        )


_WAKING: Final = 10.0
"""Seconds in which the operator has surely heard of a request that another model answered: as long as a signal counts."""
_MANY: Final = 20
"""Replicas from which fetching the same weights for each of them is worth a word."""


def _unknown(value: object, schema: Manifest, path: Path) -> Iterator[Path]:
    """Paths of a value that the schema does not know; what stands below such a one is not looked at."""
    if isinstance(value, dict) and "properties" in schema:
        for key, item in value.items():
            here = (*path, str(key))
            if key in schema["properties"]:
                yield from _unknown(item, schema["properties"][key], here)
            else:
                yield here
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _unknown(item, schema["items"], (*path, index))


def _fields(schema: Manifest, path: Path) -> tuple[str, ...]:
    for part in path:
        schema = schema["items"] if isinstance(part, int) else schema["properties"][part]
    return tuple(schema.get("properties", ()))


def _fitting(path: Path, schema: Manifest) -> Path:
    """The part of a path that the schema knows; pydantic appends which type of a union it tried."""
    for depth, part in enumerate(path):
        if isinstance(part, int) and "items" in schema:
            schema = schema["items"]
        elif isinstance(part, str) and part in schema.get("properties", ()):
            schema = schema["properties"][part]
        elif isinstance(part, str) and "additionalProperties" in schema:
            schema = schema["additionalProperties"]
        else:
            return path[:depth]
    return path


def _describe(path: Path) -> str:
    schema = _SCHEMA
    for part in path:
        schema = (
            schema["items"]
            if isinstance(part, int)
            else schema.get("properties", {}).get(part) or schema["additionalProperties"]
        )
    return f"is not as it must be. {schema.get('description', '')}".strip()


def _split_path(message: str) -> tuple[Path, str]:
    """Take the field off the front of a message such as `spec.engine.extraArgs: --port is refused`."""
    where, colon, rest = message.partition(": ")
    path = tuple(where.split("."))
    if colon and path[0] in {"spec", "metadata"} and _fitting(path, _SCHEMA) == path:
        return path, rest
    return ("metadata", "name") if message.startswith("metadata.name") else ("spec",), message


def _is_model(value: object) -> bool:
    return (
        isinstance(value, dict)
        and str(value.get("apiVersion", "")).startswith(f"{names.GROUP}/")
        and value.get("kind") == names.KIND
    )


_SCHEMA: Final[Manifest] = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
