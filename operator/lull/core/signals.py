"""Demand for each LLMDeployment, put together from what every gateway last said."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lull.api.llmdeployment import Key
from lull.core.latencies import LAST_BUCKET, add_counts, find_percentile
from lull.core.reading import join_shares

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


@dataclass(frozen=True, slots=True)
class ModelService:
    """How the requests of one gateway for one LLMDeployment fare; counts are since its process began."""

    finished: int
    met: int
    missed: int
    reading: float | None
    """Share of the engines' time in which they had prompts of this gateway's to read."""
    first_token: Mapping[int, int]
    """Times of the last minute, by bucket (`core.latencies`), as the next."""
    per_token: Mapping[int, int]
    whole: Mapping[int, int] = field(default_factory=dict)
    """Of answers that did not stream: shares of the time that the SLO allows."""


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """What one gateway has of one LLMDeployment."""

    held: int
    in_flight: int
    arrived: int
    """Requests since the gateway process began."""
    last_request_at: float | None
    """Last arrival or completion, on the reader's clock."""
    service: ModelService | None = None
    """None where the gateway is of a version that does not say it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of one gateway."""

    at: float
    boot: str
    sequence: int
    models: Mapping[Key, ModelDemand]


@dataclass(frozen=True, slots=True)
class Service:
    """How requests fare, over all gateways and engines; what is None nobody says."""

    arrived: int
    """This and `finished`, `met` and `missed` are counts that only grow within an epoch."""
    finished: int
    epoch: str = ""
    """Who counted: where this differs, counts began anew."""
    met: int | None = None
    """Answered within the SLO."""
    missed: int | None = None
    queued: int | None = None
    """Let go, and not begun yet by an engine."""
    reading: float | None = None
    """Share of the ready replicas that have prompts to read."""
    kv_usage: float | None = None
    """Average over the ready replicas, up to 1."""
    first_token: float | None = None
    """90th percentile of the last minute, in seconds, as the next."""
    per_token: float | None = None
    whole: float | None = None
    """Of answers that did not stream, likewise: the time that one took, as a share of what the SLO allows."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What asks for replicas of one LLMDeployment, over all gateways."""

    held: int
    in_flight: int
    waiting: int
    """At the engines, running ones included, and at no gateway."""
    last_request_at: float | None
    complete: bool
    """Whether every gateway was heard. Where not, there may be more demand, never less."""
    service: Service | None = None
    """None where gateways do not say it."""

    @property
    def is_any(self) -> bool:
        return self.held + self.in_flight + self.waiting > 0


def parse_sample(content: bytes, *, at: float) -> Sample:
    """Read a gateway's `/demand`; ValueError where it is not one."""
    try:
        answer = _Answer.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(f"no answer of a gateway: {error.error_count()} fields are wrong") from error
    return Sample(
        at=at,
        boot=answer.boot,
        sequence=answer.sequence,
        models={
            _parse_key(name): ModelDemand(
                held=model.held,
                in_flight=model.in_flight,
                arrived=model.arrived,
                last_request_at=None if model.since_last is None else at - model.since_last,
                service=None if model.service is None else _build_service(model.service),
            )
            for name, model in answer.models.items()
        },
    )


def sum_demand(key: Key, samples: Iterable[Sample | None], *, now: float, stale_after: float) -> Demand | None:
    """Demand over all gateways, one item for each that exists; None where none was heard.

    A sample that is missing or stale is left out and makes the demand incomplete.
    """
    known = tuple(samples)
    fresh = tuple(sample for sample in known if sample is not None and now - sample.at <= stale_after)
    if not fresh:
        return None
    models = tuple(sample.models[key] for sample in fresh if key in sample.models)
    return Demand(
        held=sum(model.held for model in models),
        in_flight=sum(model.in_flight for model in models),
        waiting=0,
        last_request_at=find_latest(*(model.last_request_at for model in models)),
        complete=len(fresh) == len(known),
        service=_sum_service(models, epoch=_find_epoch(fresh)),
    )


def find_latest(*times: float | None) -> float | None:
    """The last of those times that are known."""
    return max((at for at in times if at is not None), default=None)


def _sum_service(models: Collection[ModelDemand], *, epoch: str) -> Service | None:
    """How requests fare over all gateways that have had any; None where one of them does not say it."""
    services = tuple(service for model in models if (service := model.service) is not None)
    if not services or len(services) < len(models):
        return None
    return Service(
        arrived=sum(model.arrived for model in models),
        finished=sum(service.finished for service in services),
        epoch=epoch,
        met=sum(service.met for service in services),
        missed=sum(service.missed for service in services),
        reading=join_shares(service.reading for service in services),
        first_token=find_percentile(add_counts(service.first_token for service in services), _PERCENTILE),
        per_token=find_percentile(add_counts(service.per_token for service in services), _PERCENTILE),
        whole=find_percentile(add_counts(service.whole for service in services), _PERCENTILE),
    )


def _find_epoch(samples: Iterable[Sample]) -> str:
    """The same as long as the same gateway processes are heard."""
    return blake2b(" ".join(sorted(sample.boot for sample in samples)).encode(), digest_size=8).hexdigest()


def find_woken(sample: Sample, earlier: Sample | None) -> tuple[Key, ...]:
    """LLMDeployments that a gateway's news is about: a request arrived, or more are held than before."""
    known = earlier.models if earlier is not None and earlier.boot == sample.boot else {}
    return tuple(
        key
        for key, model in sample.models.items()
        if model.held > known.get(key, _NOTHING).held or model.arrived > known.get(key, _NOTHING).arrived
    )


_PERCENTILE: Final = 90
_NOTHING: Final = ModelDemand(held=0, in_flight=0, arrived=0, last_request_at=None)

_Count = Annotated[int, Field(ge=0)]
_Latencies = dict[Annotated[int, Field(ge=0, le=LAST_BUCKET)], _Count]


class _Service(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    finished: _Count
    met: _Count
    missed: _Count
    reading: Annotated[float | None, Field(ge=0, le=1)] = None
    first_token: Annotated[_Latencies, Field(alias="firstToken")] = {}
    per_token: Annotated[_Latencies, Field(alias="perToken")] = {}
    whole: _Latencies = {}


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    held: _Count
    in_flight: Annotated[_Count, Field(alias="inFlight")]
    arrived: _Count
    since_last: Annotated[float | None, Field(ge=0, alias="sinceLast")] = None
    service: _Service | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    boot: str
    sequence: _Count
    models: dict[Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")], _Model]


def _build_service(service: _Service) -> ModelService:
    return ModelService(
        finished=service.finished,
        met=service.met,
        missed=service.missed,
        reading=service.reading,
        first_token=service.first_token,
        per_token=service.per_token,
        whole=service.whole,
    )


def _parse_key(text: str) -> Key:
    namespace, name = text.split("/")
    return Key(namespace, name)
