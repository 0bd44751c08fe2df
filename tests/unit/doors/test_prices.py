"""A list of prices that changes under the operator."""

from __future__ import annotations

from pathlib import Path

import pytest

from lull.doors import clock
from lull.doors.prices import LOOK_SECONDS, Prices

GOOD = "accelerators: {NVIDIA-L4: {perHour: 0.8}}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prices.yaml"


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    at = clock.monotonic() + LOOK_SECONDS
    monkeypatch.setattr(clock, "monotonic", lambda: at)


def test_reads_the_file_again_when_it_changes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(GOOD)
    prices = Prices(str(file))
    assert prices.list().accelerators["NVIDIA-L4"].amount == 0.8

    file.write_text(GOOD.replace("0.8", "0.9"))
    later(monkeypatch)

    assert prices.list().accelerators["NVIDIA-L4"].amount == 0.9


@pytest.mark.parametrize("broken", ["accelerators: []", "\0", "a: ["])
def test_keeps_the_prices_where_the_file_is_broken(file: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    file.write_text(GOOD)
    prices = Prices(str(file))
    known = prices.list()

    file.write_text(broken)
    later(monkeypatch)

    assert prices.list() == known


def test_knows_no_price_without_a_file(file: Path) -> None:
    assert Prices(str(file)).list().accelerators == {}
