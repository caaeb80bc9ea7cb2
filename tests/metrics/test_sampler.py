"""What a worker notes of itself, and of Redis."""

import pytest

from app.metrics.catalog import (
    CPU_SECONDS,
    FEEDS,
    LAYOUT,
    OPEN_FILES,
    REDIS_PROBE_SECONDS,
    REDIS_UP,
    REDIS_WARNINGS,
    RESIDENT_BYTES,
)
from app.metrics.sampler import Sampler
from app.metrics.values import own_row, use


@pytest.fixture(autouse=True)
def row():
    before = own_row()
    use([0.0] * LAYOUT.size)
    yield own_row()
    use(before)


def test_a_sample_has_the_readings_and_the_process(row):
    feeds = [3]
    sampler = Sampler([(FEEDS, lambda: feeds[0])], lambda: [])
    sampler.sample()
    assert row[FEEDS.first] == 3
    assert row[RESIDENT_BYTES.first] > 2**20
    assert row[OPEN_FILES.first] > 2
    feeds[0] = 5
    sampler.sample()
    assert row[FEEDS.first] == 5


def test_cpu_time_is_counted_once(row):
    sampler = Sampler([], lambda: [])
    sampler.sample()
    first = row[CPU_SECONDS.of("user").index]
    assert first > 0
    for _ in range(10):
        sampler.sample()
    assert row[CPU_SECONDS.of("user").index] < 2 * first + 1


def test_redis_that_serves_is_up_and_says_more(row):
    Sampler([], lambda: [(REDIS_WARNINGS, 2)]).probe()
    assert row[REDIS_UP.first] == 1
    assert row[REDIS_WARNINGS.first] == 2
    assert row[REDIS_PROBE_SECONDS.first] > 0


def test_redis_that_does_not_is_down(row):
    def fail():
        raise ConnectionError

    REDIS_UP.set(1)
    Sampler([], fail).probe()
    assert row[REDIS_UP.first] == 0
