"""What a replica costs, and whose price that is."""

from __future__ import annotations

from typing import Any

import pytest

from lull.api.spec import LLMDeploymentSpec
from lull.core.prices import find_price, parse_prices

L4 = "NVIDIA-L4: {perHour: 0.8, source: a list, at: 2026-07-20}"


def spec(**fields: Any) -> LLMDeploymentSpec:
    return LLMDeploymentSpec.model_validate({"model": {"source": "hf://org/name"}, **fields})


TWO_PRODUCTS = spec(
    parallelism={"tensor": 2},
    placement={"pools": [{"name": "a", "product": "NVIDIA-L4"}, {"name": "b", "product": "NVIDIA-H100"}]},
)


def test_counts_the_accelerators_of_the_dearest_pool() -> None:
    price = find_price(TWO_PRODUCTS, parse_prices(f"accelerators: {{{L4}, NVIDIA-H100: {{perHour: 4}}}}"))

    assert price is not None
    assert (price.amount, price.currency, price.words) == (8.0, "USD", "2 x NVIDIA-H100 at 4")


def test_says_whose_price_it_is_and_of_when() -> None:
    price = find_price(spec(accelerator={"product": "NVIDIA-L4"}), parse_prices(f"accelerators: {{{L4}}}"))

    assert price is not None
    assert price.words == "1 x NVIDIA-L4 at 0.8 (a list of 2026-07-20)"


def test_knows_no_price_where_one_product_has_none() -> None:
    assert find_price(TWO_PRODUCTS, parse_prices(f"accelerators: {{{L4}}}")) is None
    assert find_price(spec(), parse_prices("")) is None


def test_a_star_is_every_other_product() -> None:
    price = find_price(TWO_PRODUCTS, parse_prices(f'{{currency: EUR, accelerators: {{{L4}, "*": {{perHour: 5}}}}}}'))

    assert price is not None
    assert (price.amount, price.currency) == (10.0, "EUR")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("accelerators: {a: {perHour: -1}}", r"prices\.accelerators\.a\.perHour: Input should be greater than"),
        ("accelerators: {a: {perHour: .inf}}", r"prices\.accelerators\.a\.perHour: Input should be"),
        ("accelerators: {a: {}}", r"prices\.accelerators\.a\.perHour: Field required"),
        ("accelerators: {a: {perHour: 1, at: soon}}", r"prices\.accelerators\.a\.at: String should match"),
        ("currency: $", r"prices\.currency: String should match"),
        ("gpus: {}", r"prices\.gpus: Extra inputs are not permitted"),
        ("a: [", "no YAML"),
        ("[1]", "prices: Input should be"),
    ],
)
def test_refuses_what_is_no_list_of_prices(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_prices(text)
