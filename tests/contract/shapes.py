"""What of an answer is compared: its form, not the words of a model."""

import json
from dataclasses import dataclass
from typing import Any

import httpx

_SCALARS = {bool: "boolean", int: "number", float: "number", str: "string"}


@dataclass(frozen=True, slots=True)
class Form:
    """An answer without what differs from one run to the next."""

    status: int
    content_type: str | None
    body: Any
    error: Any = None


def form_of(response: httpx.Response) -> Form:
    """Read an answer's form; of an error the type, the parameter and the code count as they are."""
    content_type = response.headers.get("content-type")
    if content_type and content_type.startswith("text/event-stream"):
        return Form(response.status_code, content_type, stream_form(response.text))
    if content_type == "application/json":
        body = response.json()
        error = body.get("error") if isinstance(body, dict) else None
        fixed = (error["type"], error.get("param"), error.get("code")) if isinstance(error, dict) else error
        return Form(response.status_code, content_type, shape(body), fixed)
    return Form(response.status_code, content_type, bool(response.content))


def stream_form(text: str) -> list[Any]:
    """Read the events of a stream, repeated forms once; every event is one `data:` line, after its name if it has one."""
    assert text.endswith("\n\n")
    forms: list[Any] = []
    for event in text.removesuffix("\n\n").split("\n\n"):
        *name, line = event.split("\n")
        assert line.startswith("data: ")
        assert len(name) <= 1
        payload = line.removeprefix("data: ")
        form = payload if payload == "[DONE]" else [*name, shape(json.loads(payload))]
        if form not in forms:
            forms.append(form)
    return forms


def shape(value: Any, name: str = "") -> Any:
    """Replace each value by its type, keep keys, and keep one of each kind of element.

    A token's bytes may be none, and the log-probabilities of completions have tokens for keys.
    """
    if isinstance(value, list):
        return ["number"] if name == "bytes" else _kinds(value, name)
    if isinstance(value, dict):
        if name == "top_logprobs" and "token" not in value:
            return {"token": shape(next(iter(value.values())))}
        if value.get("finish_reason") and isinstance(value.get("delta"), dict):
            # The last token may be half a character, and have no text: that is the model's matter.
            value = {**value, "delta": {key: each for key, each in value["delta"].items() if key != "content"}}
        return {key: shape(each, key) for key, each in sorted(value.items())}
    return None if value is None else _SCALARS[type(value)]


def _kinds(elements: list[Any], name: str) -> list[Any]:
    kinds: list[Any] = []
    for each in elements:
        kind = shape(each, name)
        if kind not in kinds:
            kinds.append(kind)
    return kinds


@dataclass(frozen=True, slots=True)
class Family:
    """A family of metrics: what it is, and how its series are told apart."""

    type: str
    labels: frozenset[frozenset[str]]
    buckets: tuple[str, ...]


def families_of(page: str) -> dict[str, Family]:
    """Read a metrics page for its names, types, label names and bucket bounds."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, Family] = {}
    for family in text_string_to_metric_families(page):
        labels = frozenset(frozenset(sample.labels) for sample in family.samples)
        bounds = dict.fromkeys(sample.labels["le"] for sample in family.samples if "le" in sample.labels)
        found[family.name] = Family(family.type, labels, tuple(bounds))
    return found
