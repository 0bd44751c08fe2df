"""What several gateways saw is what one that saw it all would say, and nearly what it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lull.core.latencies import BUCKETS_PER_DOUBLING, Latencies, add_counts, find_percentile

WIDTH = 2 ** (1 / BUCKETS_PER_DOUBLING)
SEEN = st.lists(st.tuples(st.floats(0.0002, 5000), st.floats(0, 20), st.integers(0, 2)), min_size=1, max_size=80)
"""Times, the seconds since what came before, and the gateway that saw it."""


@given(SEEN, st.integers(1, 99))
def test_gateways_add_up_to_one_that_saw_it_all(seen: list[tuple[float, float, int]], percentile: int) -> None:
    one, several = Latencies(), [Latencies() for _ in range(3)]
    now = 0.0
    for seconds, since, gateway in seen:
        now += since
        one.add(seconds, now=now)
        several[gateway].add(seconds, now=now)

    counts = add_counts(gateway.count(now=now) for gateway in several)

    assert counts == one.count(now=now)
    assert find_percentile(counts, percentile) == find_percentile(one.count(now=now), percentile)


@given(st.lists(st.floats(0.0002, 5000), min_size=1, max_size=200), st.integers(1, 99))
def test_a_percentile_is_right_to_a_bucket(times: list[float], percentile: int) -> None:
    latencies = Latencies()
    for seconds in times:
        latencies.add(seconds, now=0.0)

    found = find_percentile(latencies.count(now=0.0), percentile)

    exact = sorted(times)[round(percentile / 100 * (len(times) - 1))]
    assert found is not None
    assert exact / WIDTH <= found * (1 + 1e-9)
    assert found <= exact * WIDTH * (1 + 1e-9)


@given(SEEN)
def test_memory_is_bounded_by_buckets_and_slots(seen: list[tuple[float, float, int]]) -> None:
    latencies = Latencies()
    now = 0.0
    for seconds, since, _ in seen:
        now += since
        latencies.add(seconds, now=now)

    counts = latencies.count(now=now)

    assert all(count > 0 for count in counts.values())
    assert latencies.count(now=now + 61) == {}
