"""The CustomResourceDefinition, generated from the API types.

pydantic writes JSON Schema; Kubernetes takes a subset, the structural schema: no references, no `null`, types
outside of any junctor. What cannot be said in it is refused here rather than by an API server.
"""

from __future__ import annotations

from typing import Final

from lull.api import names
from lull.api.llmdeployment import ADAPTER_NAME_RULE, FALLBACK_NAME_RULE, Manifest
from lull.api.spec import LLMDeploymentSpec
from lull.api.status import LLMDeploymentStatus

# In the order in which they are written; every keyword that pydantic may emit is in one of the two.
_KEPT: Final = (
    "description",
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
    "required",
)
_REWRITTEN: Final = frozenset(
    {"title", "$defs", "anyOf", "const", "default", "items", "properties", "additionalProperties"}
)


def build_crd() -> Manifest:
    """The CRD as it is installed."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": ["all", "lull"],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        _column("Model", ".spec.model.source", "Where the weights come from."),
                        _column("Ready", _of_condition("Ready", "status"), "Whether a request is answered."),
                        _column("Replicas", ".status.summary", "Ready of desired replicas."),
                        _column("Reason", _of_condition("Ready", "reason"), "Why it is ready, or why not."),
                        _column("Accelerator", ".status.accelerator", "What one replica computes on.", priority=1),
                        _column("Spot", ".status.spot", "Replicas on spot capacity, of all.", priority=1),
                        _column("Adapters", ".status.adaptersSummary", "Ready of all adapters.", priority=1),
                        _column("Cost/h", ".status.cost.perHour", "What its replicas cost per hour.", priority=1),
                        _column("URL", ".status.url", "Base URL for OpenAI clients.", priority=1),
                        _column("Age", ".metadata.creationTimestamp", "Time since it was created.", kind="date"),
                    ],
                }
            ],
        },
    }


def build_structural(schema: Manifest) -> Manifest:
    """Rewrite pydantic's JSON Schema into a structural schema; TypeError names what has no place in one."""
    return _rewrite(schema, schema.get("$defs", {}), at="")


def expand_defaults(schema: Manifest) -> Manifest:
    """What the API server makes of an empty object: the defaults of its properties, as deep as they go."""
    return {
        name: {**expand_defaults(property_), **property_["default"]}
        if property_.get("type") == "object" and "properties" in property_
        else property_["default"]
        for name, property_ in schema.get("properties", {}).items()
        if "default" in property_
    }


def _root() -> Manifest:
    return {
        "type": "object",
        "description": "LLMDeployment is a language model served by vLLM, with as many replicas as its requests need.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of this schema."},
            "kind": {"type": "string", "description": f"Always {names.KIND}."},
            "metadata": {"type": "object"},
            "spec": {
                **build_structural(LLMDeploymentSpec.model_json_schema()),
                "description": "What is served, and how.",
            },
            "status": {
                # Defaults belong to what users write; the operator writes all of status itself.
                **_without_defaults(build_structural(LLMDeploymentStatus.model_json_schema())),
                "description": "What Lull observed.",
            },
        },
        "x-kubernetes-validations": [
            {
                "rule": f"self.metadata.name.size() <= {names.NAME_LIMIT} "
                f"&& self.metadata.name.matches('{names.NAME_PATTERN}')",
                "message": names.NAME_RULE,
            },
            {
                "rule": "!has(self.spec.adapters) || has(self.spec.model.name) "
                "|| self.spec.adapters.items.all(adapter, adapter.name != self.metadata.name)",
                "message": ADAPTER_NAME_RULE,
            },
            {
                "rule": "has(self.spec.model.name) || !(self.metadata.name in self.spec.fallback "
                "|| self.spec.routes.exists(route, route.model == self.metadata.name))",
                "message": FALLBACK_NAME_RULE,
            },
        ],
    }


def _rewrite(node: Manifest, definitions: Manifest, *, at: str) -> Manifest:
    flat = _flatten(node, definitions, at=at)
    unknown = flat.keys() - _REWRITTEN - set(_KEPT)
    if unknown or not {"type", "x-kubernetes-int-or-string"} & flat.keys():
        raise TypeError(
            f"{at}: a structural schema has no place for {', '.join(sorted(unknown)) or 'an untyped value'}"
        )
    rewritten: Manifest = {key: flat[key] for key in _KEPT if key in flat}
    if "const" in flat:
        rewritten["enum"] = [flat["const"]]
    if "items" in flat:
        rewritten["items"] = _rewrite(flat["items"], definitions, at=f"{at}[]")
    if "properties" in flat:
        rewritten["properties"] = {
            name: _rewrite(property_, definitions, at=f"{at}.{name}") for name, property_ in flat["properties"].items()
        }
    elif isinstance(flat.get("additionalProperties"), dict):
        rewritten["additionalProperties"] = _rewrite(flat["additionalProperties"], definitions, at=f"{at}[*]")
    if flat.get("default") is not None:
        rewritten["default"] = _place_default(flat["default"], rewritten, at=at)
    return rewritten


def _flatten(node: Manifest, definitions: Manifest, *, at: str) -> Manifest:
    """Follow references and drop `null`, until the type stands at the top."""
    if "$ref" in node:
        target = definitions[node["$ref"].removeprefix("#/$defs/")]
        return _flatten({**target, **{key: value for key, value in node.items() if key != "$ref"}}, definitions, at=at)
    options = [option for option in node.get("anyOf", []) if option != {"type": "null"}]
    if not options:
        return node
    if len(options) > 1:
        raise TypeError(f"{at}: a value of {len(options)} types has no place in a structural schema")
    return _flatten({**options[0], **{key: value for key, value in node.items() if key != "anyOf"}}, definitions, at=at)


def _place_default(default: object, schema: Manifest, *, at: str) -> object:
    """Defaults live at the leaves, so that an object given in part gets the rest; parents need only exist."""
    if schema.get("type") != "object" or "properties" not in schema:
        return _without_nulls(default)
    expanded = expand_defaults(schema)
    if _without_nulls(default) != expanded:
        raise TypeError(f"{at}: the default differs from the defaults of its fields")
    # The API server tries rules on a default as it is written, before the leaves have filled it.
    return expanded if "x-kubernetes-validations" in schema else {}


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _without_defaults(schema: Manifest) -> Manifest:
    return {
        **{key: value for key, value in schema.items() if key != "default"},
        **(
            {"properties": {name: _without_defaults(value) for name, value in schema["properties"].items()}}
            if "properties" in schema
            else {}
        ),
        **({"items": _without_defaults(schema["items"])} if "items" in schema else {}),
    }


def _column(name: str, path: str, description: str, *, kind: str = "string", priority: int = 0) -> Manifest:
    return {
        "name": name,
        "type": kind,
        "jsonPath": path,
        "description": description,
        **({"priority": priority} if priority else {}),
    }


def _of_condition(kind: str, field: str) -> str:
    return f".status.conditions[?(@.type=='{kind}')].{field}"
