"""How much of the time engines have prompts to read."""

from __future__ import annotations

from random import Random

import pytest

from lull.core.reading import LOOK_SECONDS, Reading, Share, join_shares


def read(reading: Reading, *, at: float, seconds: float) -> None:
    reading.start(now=at)
    reading.stop(now=at + seconds)


def test_time_with_several_prompts_counts_once() -> None:
    reading = Reading()
    for now, is_start in ((1.0, True), (2.0, True), (3.0, False), (4.0, False), (6.0, True)):
        (reading.start if is_start else reading.stop)(now=now)

    assert reading.take(now=7.0) == pytest.approx(4.0)
    assert reading.take(now=9.0) == pytest.approx(2.0)


def test_a_share_is_over_the_ready_endpoints() -> None:
    busy, idle, away = Reading(), Reading(), Reading()
    share = Share()
    endpoints = ((busy, True), (idle, True), (away, False))
    assert share.look(endpoints, now=0.0) is None
    read(busy, at=1.0, seconds=5.0)
    read(away, at=1.0, seconds=9.0)

    assert share.look(endpoints, now=10.0) == pytest.approx(0.25)


def test_whoever_asks_more_often_hears_the_same() -> None:
    reading, share = Reading(), Share()
    share.look([(reading, True)], now=0.0)
    read(reading, at=1.0, seconds=LOOK_SECONDS / 2)
    first = share.look([(reading, True)], now=LOOK_SECONDS)
    read(reading, at=LOOK_SECONDS, seconds=0.5)

    assert first == pytest.approx(0.5)
    assert share.look([(reading, True)], now=LOOK_SECONDS + 0.5) == first


def test_nothing_is_told_without_streams_or_endpoints() -> None:
    reading, share = Reading(), Share()
    share.look([(reading, True)], now=0.0)
    reading.wholes = 100

    assert share.look([(reading, True)], now=10.0) is None
    reading.wholes = 100
    read(reading, at=11.0, seconds=1.0)
    assert share.look([(reading, True)], now=20.0) is None
    assert share.look([], now=30.0) is None


def test_idle_engines_that_stream_are_not_reading() -> None:
    reading, share = Reading(), Share()
    share.look([(reading, True)], now=0.0)
    read(reading, at=1.0, seconds=1.0)
    share.look([(reading, True)], now=10.0)

    assert share.look([(reading, True)], now=20.0) == 0.0


def test_gateways_that_say_nothing_are_left_out() -> None:
    assert join_shares(()) is None
    assert join_shares((None, None)) is None
    assert join_shares((None, 0.3)) == pytest.approx(0.3)
    assert join_shares((0.2, 1.0)) == 1.0
    assert join_shares((0.5, join_shares((0.2, 0.4)))) == pytest.approx(join_shares((0.5, 0.2, 0.4)))


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("streaming", [1.0, 0.5])
def test_a_queue_is_as_busy_as_what_is_seen_of_it_says(load: float, streaming: float) -> None:
    """One engine reads prompts in turn; each of two gateways sees its own, and of these the streams only."""
    chance = Random(7)
    gateways = [(Reading(), Share()) for _ in range(2)]
    for reading, share in gateways:
        share.look([(reading, True)], now=0.0)
    events: list[tuple[float, int, int, bool]] = []
    now = free = busy = 0.0
    for number in range(40_000):
        now += chance.expovariate(load)
        seconds = chance.expovariate(1.0)
        free = max(free, now) + seconds
        busy += seconds
        gateway = chance.randrange(2)
        if chance.random() < streaming:
            events += [(now, number, gateway, True), (free, number, gateway, False)]
        else:
            gateways[gateway][0].wholes += 1
    for at, _, gateway, is_start in sorted(events):
        one = gateways[gateway][0]
        (one.start if is_start else one.stop)(now=at)

    seen = join_shares(share.look([(reading, True)], now=free) for reading, share in gateways)

    assert seen == pytest.approx(busy / free, rel=0.05)
