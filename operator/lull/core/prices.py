"""What accelerators cost: list prices, each with its source and date, and an operator's own in their place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lull.api.llmdeployment import render_validation_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lull.api.spec import LLMDeploymentSpec

ANY: Final = "*"
"""Stands for every product that has no price of its own."""


@dataclass(frozen=True, slots=True)
class Price:
    """Of one accelerator for an hour."""

    amount: float
    source: str = ""
    """Whose price it is."""
    at: str = ""
    """The day of which it is."""


@dataclass(frozen=True, slots=True)
class PriceList:
    currency: str = "USD"
    accelerators: Mapping[str, Price] = field(default_factory=dict)
    """By product, as node labels spell it."""


@dataclass(frozen=True, slots=True)
class ReplicaPrice:
    """What one replica costs an hour, in the dearest pool that it may run in."""

    amount: float
    currency: str
    words: str
    """Which accelerators at what price, whose it is and of when."""


def parse_prices(text: str) -> PriceList:
    """Read a list of prices; ValueError names each field that is wrong."""
    try:
        given = _List.model_validate(yaml.safe_load(text) or {})
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML: {error}") from error
    except ValidationError as error:
        raise ValueError(render_validation_error(error, root="prices")) from error
    prices = {product: Price(one.per_hour, one.source, one.at) for product, one in given.accelerators.items()}
    return PriceList(given.currency, prices)


def find_price(spec: LLMDeploymentSpec, prices: PriceList) -> ReplicaPrice | None:
    """None where one of the products that a replica may run on has no price."""
    products = {pool.product or spec.accelerator.product or ANY for pool in spec.placement.pools}
    known = {product: prices.accelerators.get(product, prices.accelerators.get(ANY)) for product in products}
    found = sorted((price.amount, product, price) for product, price in known.items() if price is not None)
    if not found or len(found) < len(products):
        return None
    amount, product, price = found[-1]
    count = spec.parallelism.accelerators
    named = "accelerator" if product == ANY else product
    origin = " of ".join(part for part in (price.source, price.at) if part)
    return ReplicaPrice(
        amount * count, prices.currency, f"{count} x {named} at {amount:g}" + (f" ({origin})" if origin else "")
    )


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    per_hour: Annotated[float, Field(ge=0, le=1e5, allow_inf_nan=False, alias="perHour")]
    source: Annotated[str, Field(max_length=128)] = ""
    # YAML makes a date of what looks like one.
    at: Annotated[str, BeforeValidator(str), Field(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$")] = ""


class _List(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: Annotated[str, Field(pattern=r"^[A-Za-z]{1,8}$")] = "USD"
    accelerators: Annotated[dict[Annotated[str, Field(max_length=63)], _Entry], Field(max_length=256)] = {}
