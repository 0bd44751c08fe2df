"""Times of the last minute."""

from __future__ import annotations

import pytest

from lull.core.latencies import LAST_BUCKET, SHORTEST, Latencies, add_counts, find_bucket, find_percentile


def test_what_is_older_than_a_minute_is_forgotten() -> None:
    latencies = Latencies()
    for second in range(200):
        latencies.add(1.0 if second < 100 else 2.0, now=1000.0 + second)
        assert sum(latencies.count(now=1000.0 + second).values()) <= 60

    assert set(latencies.count(now=1200.0)) == {find_bucket(2.0)}
    assert latencies.count(now=1261.0) == {}


def test_nothing_took_no_time_at_all() -> None:
    assert find_percentile({}, 90) is None
    assert find_percentile(add_counts(()), 90) is None


def test_what_is_out_of_all_bounds_counts_at_the_ends() -> None:
    assert [find_bucket(seconds) for seconds in (-1.0, 0.0, SHORTEST, 1e9)] == [0, 0, 0, LAST_BUCKET]


def test_the_percentile_is_of_the_slowest() -> None:
    counts = add_counts({find_bucket(seconds): count} for seconds, count in ((0.01, 89), (5.0, 11)))

    assert find_percentile(counts, 50) == pytest.approx(0.01, rel=0.1)
    assert find_percentile(counts, 90) == pytest.approx(5.0, rel=0.1)
