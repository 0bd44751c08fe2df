"""Names, durations, quantities, timestamps and the parsing of the object itself."""

from __future__ import annotations

from decimal import Decimal

import pytest

from lull.api import names
from lull.api.llmdeployment import owner_reference, parse_llmdeployment
from lull.api.quantities import parse_duration, parse_quantity, render_duration
from lull.api.timestamps import parse_timestamp, render_timestamp
from tests.manifests import UID, manifest, stored


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("1.5m", 90), ("250ms", 0.25), ("0s", 0)])
def test_reads_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "90", "-5s", "1d", "s", "1 s"])
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.44, "0.4s"), (12, "12s"), (59.94, "59.9s"), (59.96, "1m"), (200, "3m20s"), (7200, "2h"), (-1, "0s")],
)
def test_writes_durations_the_short_way(seconds: float, text: str) -> None:
    assert render_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", "0.5"), ("4", "4"), ("40Gi", str(40 * 2**30)), ("1.5k", "1500"), ("2Ti", str(2 * 2**40))],
)
def test_reads_quantities(text: str, value: str) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "Gi", "4 Gi", "-1", "1GiB"])
def test_refuses_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        parse_quantity(text)


def test_timestamps_go_there_and_back() -> None:
    assert parse_timestamp("1970-01-02T00:00:01Z") == 86401
    assert render_timestamp(86401.9) == "1970-01-02T00:00:01Z"


def test_a_child_is_named_readably_while_it_fits() -> None:
    assert names.child("llama", "spot") == "llama-spot"


def test_a_long_child_is_cut_and_still_told_apart() -> None:
    first, second = (names.child("a" * 40, f"pool-number-{number}") for number in (1, 2))

    assert first != second
    assert max(len(first), len(second)) <= 52


def test_a_group_leaves_more_room_for_what_is_made_from_its_name() -> None:
    assert names.workload("a" * 40, "b" * 11, nodes=1) == f"{'a' * 40}-{'b' * 11}"
    assert len(names.workload("a" * 40, "b" * 11, nodes=2)) == 48


def test_the_first_served_name_is_the_engines_own() -> None:
    model = {"source": "hf://org/name", "name": "a", "aliases": ["b", "c"]}

    assert parse_llmdeployment(manifest(model=model)).served_names == ("a", "b", "c")


def test_an_alias_that_is_the_objects_name_is_served_once() -> None:
    model = {"source": "hf://org/name", "aliases": ["llama-8b", "llama"]}

    assert parse_llmdeployment(manifest(model=model)).served_names == ("llama-8b", "llama")


def test_a_field_of_a_newer_version_is_let_be() -> None:
    assert parse_llmdeployment(manifest(telepathy=True)).spec == parse_llmdeployment(manifest()).spec


def test_a_status_that_cannot_be_read_does_not_stop_serving() -> None:
    deployment = parse_llmdeployment({**manifest(), "status": {"replicas": "many"}})

    assert deployment.status.replicas == 0


def test_children_are_deleted_with_their_owner_by_kubernetes() -> None:
    reference = owner_reference(stored(manifest()))

    assert reference["uid"] == UID
    assert reference["controller"] is True
