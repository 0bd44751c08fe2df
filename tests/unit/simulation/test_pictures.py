from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from lull.core.simulation.fleet import Options, Request, simulate
from lull.core.simulation.panels import build_panels, find_levels, find_ticks
from lull.core.simulation.svg import render_svg
from tests.unit.simulation.models import Fixed, linear

REQUESTS = [Request(number * 0.5, 500, 200) for number in range(2000)]
OUTCOME = simulate(REQUESTS, Fixed(2), linear(), Options(cold_start=60.0), 0)


def test_a_picture_is_well_formed_and_says_what_it_shows() -> None:
    picture = render_svg(build_panels({"a <b>": OUTCOME, "c": OUTCOME}))

    root = ET.fromstring(picture)
    words = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(word.startswith("a <b>: ") for word in words)
    assert {"replicas ready", "running", "held or waiting", "SLO missed", "0s", "10m"} <= set(words)
    assert len(picture) < 200_000


def test_nothing_is_drawn_outside() -> None:
    root = ET.fromstring(render_svg(build_panels({"a": OUTCOME})))

    *_, width, height = (float(part) for part in root.attrib["viewBox"].split())
    for element in root.iter("{http://www.w3.org/2000/svg}rect"):
        if element.attrib["width"] != "100%":
            assert 0 <= float(element.attrib["x"]) <= width
            assert 0 <= float(element.attrib["y"]) <= height


def test_a_simulation_in_which_nothing_happens_can_be_drawn() -> None:
    empty = simulate([], Fixed(0), linear(), Options(), 0)

    assert ET.fromstring(render_svg(build_panels({"a": empty}))) is not None


def test_samples_are_few_enough_to_be_told_apart() -> None:
    load, panel = build_panels({"a": OUTCOME})

    assert len(load.times) == len(panel.times) <= 500
    assert max(panel.left[1].values) == 2


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (8, ["0s", "1s", "2s", "3s", "4s", "5s", "6s", "7s", "8s"]),
        (3600, ["0s", "10m", "20m", "30m", "40m", "50m", "1h"]),
        (14 * 86400, ["0s", "48h", "96h", "144h", "192h", "240h", "288h", "336h"]),
    ],
)
def test_times_are_round(seconds: float, labels: list[str]) -> None:
    assert [label for _, label in find_ticks(seconds)] == labels


@pytest.mark.parametrize(
    ("most", "levels"),
    [(0, (0, 1)), (1, (0, 1)), (3, (0, 1, 2, 3)), (4.2, (0, 2, 4, 6)), (680, (0, 200, 400, 600, 800))],
)
def test_levels_are_round_and_high_enough(most: float, levels: tuple[float, ...]) -> None:
    assert find_levels(most) == levels
