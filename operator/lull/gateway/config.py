"""Models, endpoints and settings in one YAML file: what a gateway serves where there is no Kubernetes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit
from zlib import crc32

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from lull.api.base import ServedName  # noqa: TC001  pydantic reads it
from lull.api.keys import KEY_ID_PATTERN, KeyEntry
from lull.api.llmdeployment import Key, LLMDeployment, render_validation_error
from lull.api.requests import RequestsSpec, RouteSpec
from lull.api.scaling import SloSpec
from lull.api.spec import LLMDeploymentSpec, QueueSpec
from lull.api.status import LLMDeploymentStatus
from lull.core.documents import Document, Finding, Severity, find_yaml_error, parse_documents, render_path
from lull.core.keys import Keyring, build_keyring
from lull.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path as FilePath

    from lull.core.documents import Path

NAMESPACE: Final = "standalone"
"""Of every model of a file, as a label of its series."""
MAX_BYTES: Final = 8 << 20
MAX_KEYS: Final = 10_000

_NOT_IN_A_FILE: Final = {"namespace", "watch_namespace", "keys_secret", "keys_required"}
_PLACEHOLDER: Final = "hf://engine/knows"


class InvalidConfig(ValueError):  # noqa: N818  reads as what it says of the file
    """The file cannot be served; each finding names a line."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__("; ".join(f"line {one.line}: {one.where}: {one.message}" for one in findings))
        self.findings = findings


@dataclass(frozen=True, slots=True)
class Address:
    """One engine, as the file names it."""

    url: str
    host: str
    port: int
    health: str
    """Path that answers 200 while the engine serves."""
    names: tuple[str, ...]
    """Names that requests for it carry, as clients sent them."""

    @property
    def netloc(self) -> str:
        return self.url.removeprefix("http://")


@dataclass(frozen=True, slots=True)
class Model:
    deployment: LLMDeployment
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Config:
    models: tuple[Model, ...]
    keyring: Keyring
    settings: GatewaySettings
    """Those of the file, and before them those of the environment."""


def load_config(path: FilePath) -> Config:
    """Read and parse a file, which takes a while where it is large."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InvalidConfig((Finding(1, Severity.ERROR, "", f"has more than {MAX_BYTES} bytes"),))
        return parse_config(content.decode())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig((Finding(1, Severity.ERROR, "", str(error)),)) from error


def parse_config(text: str) -> Config:
    """Read a file; InvalidConfig says by line everything that is wrong with it."""
    try:
        documents = parse_documents(text)
    except yaml.YAMLError as error:
        raise InvalidConfig((find_yaml_error(error),)) from error
    document = documents[0] if documents else Document({}, {(): 1}, ())
    if len(documents) > 1:
        raise InvalidConfig((Finding(documents[1].find_line(()), Severity.ERROR, "", "one document is a whole file"),))
    if not isinstance(document.value, dict):
        raise InvalidConfig((Finding(document.find_line(()), Severity.ERROR, "", "is not a mapping with `models`"),))
    problems: list[tuple[Path, str]] = [(path, "stands twice; only the last one counts") for path, _ in document.twice]
    file, settings = None, None
    try:
        file = _File.model_validate(
            {key: value for key, value in document.value.items() if key not in _SETTINGS}, extra="forbid"
        )
    except ValidationError as error:
        problems += _explain(error, document)
    try:
        settings = _read_settings(document.value)
    except ValidationError as error:
        problems += _explain_settings(error, document)
    models: list[Model] = []
    if file is not None:
        problems += _find_clashes(file)
        for number, given in enumerate(file.models):
            try:
                models.append(_build_model(given))
            except ValidationError as error:
                problems.append((("models", number), render_validation_error(error, root="model")))
    if problems or file is None or settings is None:
        raise InvalidConfig(_find_lines(problems, document))
    keyring, _ = build_keyring({id_: entry.model_dump(by_alias=True) for id_, entry in file.keys.entries.items()})
    return Config(tuple(models), keyring, settings)


def _parse_url(url: str) -> str:
    """The shape of an endpoint: scheme, host and port, and nothing else."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is no address: {error}") from error
    if parts.scheme == "https":
        raise ValueError("engines are reached without TLS: write http://")
    rest = parts.path.rstrip("/") or parts.query or parts.fragment
    if parts.scheme != "http" or not parts.hostname or port == 0 or parts.username is not None or rest:
        raise ValueError("write http://host:port, without a path: Lull appends the client's")
    return f"http://{parts.netloc}"


class _Given(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class _ModelGiven(_Given):
    name: ServedName
    aliases: Annotated[list[ServedName], Field(max_length=16)] = []
    endpoints: Annotated[list[Annotated[str, AfterValidator(_parse_url)]], Field(min_length=1, max_length=256)]
    health: Annotated[str, Field(pattern=r"^/[!-~]*$", max_length=256)] = "/health"
    adapters: Annotated[list[ServedName], Field(max_length=512)] = []
    max_num_seqs: Annotated[int | None, Field(ge=1, le=65536)] = None
    queue: QueueSpec = QueueSpec()
    slo: SloSpec = SloSpec()
    requests: RequestsSpec = RequestsSpec()
    fallback: Annotated[list[ServedName], Field(max_length=4)] = []
    routes: Annotated[list[RouteSpec], Field(max_length=4)] = []


class _KeysGiven(_Given):
    required: bool = True
    entries: Annotated[dict[Annotated[str, Field(pattern=KEY_ID_PATTERN)], KeyEntry], Field(max_length=MAX_KEYS)] = {}


class _File(_Given):
    models: Annotated[list[_ModelGiven], Field(max_length=1000)]
    keys: _KeysGiven = _KeysGiven(required=False)


_SETTINGS: Final = {to_camel(name): name for name in GatewaySettings.model_fields if name not in _NOT_IN_A_FILE}


def _read_settings(document: Mapping[str, Any]) -> GatewaySettings:
    """What the file says where the environment says nothing."""
    from_environment = GatewaySettings().model_fields_set
    given = {_SETTINGS[key]: value for key, value in document.items() if key in _SETTINGS}
    if given.get("access_log") is False:
        # YAML reads off as false.
        given["access_log"] = "off"
    # Whoever lists keys wants them asked for.
    if isinstance(keys := document.get("keys"), dict) and isinstance(required := keys.get("required", True), bool):
        given["keys_required"] = required
    return GatewaySettings(**{name: value for name, value in given.items() if name not in from_environment})


def _explain(error: ValidationError, document: Document) -> Iterator[tuple[Path, str]]:
    """What is wrong by the path of the file, once for all types of a union."""
    messages: dict[Path, list[str]] = {}
    for problem in error.errors(include_url=False, include_input=False):
        path = problem["loc"]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            message = f"{path[-1]} is missing"
        elif problem["type"] == "extra_forbidden":
            message = "is not known here"
        messages.setdefault(document.trim(path), []).append(message)
    for where, parts in messages.items():
        yield where, ", or ".join(dict.fromkeys(parts))


def _explain_settings(error: ValidationError, document: Document) -> Iterator[tuple[Path, str]]:
    for problem in error.errors(include_url=False, include_input=False):
        name = str(problem["loc"][0])
        here = (to_camel(name),)
        message = problem["msg"].removeprefix("Value error, ")
        yield (here, message) if here in document.lines else ((), f"LULL_{name.upper()}: {message}")


def _find_clashes(file: _File) -> Iterator[tuple[Path, str]]:
    """Names that two models claim or nobody has, and engines that one model lists twice."""
    owners: dict[str, str] = {}
    for number, model in enumerate(file.models):
        places = [("name", model.name), *(("aliases", one) for one in model.aliases)]
        for field, name in [*places, *(("adapters", one) for one in model.adapters)]:
            if name in owners:
                yield ("models", number, field), f'"{name}" is already a name of {owners[name]}'
            owners.setdefault(name, model.name)
        for url, times in Counter(model.endpoints).items():
            if times > 1:
                yield ("models", number, "endpoints"), f"{url} stands twice"
    for number, model in enumerate(file.models):
        for field, others in (("fallback", model.fallback), ("routes", [route.model for route in model.routes])):
            for other in others:
                if other not in owners:
                    yield ("models", number, field), f'"{other}" is no model of this file'


def _find_lines(problems: list[tuple[Path, str]], document: Document) -> tuple[Finding, ...]:
    found = (
        Finding(document.find_line(path), Severity.ERROR, render_path(path), message) for path, message in problems
    )
    return tuple(sorted(found, key=lambda finding: (finding.line, finding.where)))


def _build_model(given: _ModelGiven) -> Model:
    """The LLMDeployment that a model would be in a cluster, as far as a gateway goes by it."""
    spec = LLMDeploymentSpec.model_validate(
        {
            "model": {"source": _PLACEHOLDER, "name": given.name, "aliases": given.aliases},
            "engine": {"maxNumSeqs": given.max_num_seqs},
            "adapters": {"items": [{"name": name, "source": _PLACEHOLDER} for name in given.adapters]},
            "queue": given.queue,
            "slo": given.slo,
            "requests": given.requests,
            "fallback": given.fallback,
            "routes": given.routes,
        }
    )
    return Model(
        LLMDeployment(
            key=Key(NAMESPACE, given.name),
            uid=given.name,
            # Any other number than before where anything about it is different.
            generation=crc32(given.model_dump_json().encode()),
            created_at="",
            deleting=False,
            spec=_forget_sources(spec),
            status=LLMDeploymentStatus(),
        ),
        tuple(_build_address(url, given) for url in given.endpoints),
    )


def _forget_sources(spec: LLMDeploymentSpec) -> LLMDeploymentSpec:
    """Only the engines know where their weights are from; the schema wants to know it of every model."""
    adapters = spec.adapters
    if adapters is not None:
        items = [item.model_copy(update={"source": ""}) for item in adapters.items]
        adapters = adapters.model_copy(update={"items": items})
    return spec.model_copy(
        update={"model": spec.model.model_copy(update={"source": ""}), "adapters": adapters},
    )


def _build_address(url: str, given: _ModelGiven) -> Address:
    parts = urlsplit(url)
    return Address(
        url,
        host=parts.hostname or "",
        port=parts.port or 80,
        health=given.health,
        names=(given.name, *given.aliases),
    )
