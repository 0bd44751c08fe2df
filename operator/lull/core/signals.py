"""Demand for each LLMDeployment, put together from what every gateway last said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lull.api.llmdeployment import Key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """What one gateway has of one LLMDeployment."""

    held: int
    in_flight: int
    arrived: int
    """Requests since the gateway process began."""
    last_request_at: float | None
    """Last arrival or completion, on the reader's clock."""


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
        last_request_at=max((at for model in models if (at := model.last_request_at) is not None), default=None),
        complete=len(fresh) == len(known),
    )


def find_woken(sample: Sample, earlier: Sample | None) -> tuple[Key, ...]:
    """LLMDeployments that a gateway's news is about: a request arrived, or more are held than before."""
    known = earlier.models if earlier is not None and earlier.boot == sample.boot else {}
    return tuple(
        key
        for key, model in sample.models.items()
        if model.held > known.get(key, _NOTHING).held or model.arrived > known.get(key, _NOTHING).arrived
    )


_NOTHING: Final = ModelDemand(held=0, in_flight=0, arrived=0, last_request_at=None)


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    held: Annotated[int, Field(ge=0)]
    in_flight: Annotated[int, Field(ge=0, alias="inFlight")]
    arrived: Annotated[int, Field(ge=0)]
    since_last: Annotated[float | None, Field(ge=0, alias="sinceLast")] = None


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    boot: str
    sequence: Annotated[int, Field(ge=0)]
    models: dict[Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")], _Model]


def _parse_key(text: str) -> Key:
    namespace, name = text.split("/")
    return Key(namespace, name)
