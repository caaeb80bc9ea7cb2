"""What a worker notes of itself, and of Redis."""

import contextlib
import os
from types import SimpleNamespace

import pytest

from app.metrics import sampler
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
    noted = Sampler([(FEEDS, lambda: feeds[0])], lambda: [])
    noted.sample()
    assert row[FEEDS.first] == 3
    assert row[RESIDENT_BYTES.first] > 2**20
    assert row[OPEN_FILES.first] > 2
    feeds[0] = 5
    noted.sample()
    assert row[FEEDS.first] == 5


@pytest.mark.parametrize("has_size", [True, False])
def test_open_files_are_counted(row, monkeypatch, has_size):
    if not has_size:  # as before Linux 6.2
        monkeypatch.setattr(sampler.os, "stat", lambda path: SimpleNamespace(st_size=0))
    noted = Sampler([], lambda: [])
    noted.sample()
    before = row[OPEN_FILES.first]
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(open(os.devnull))
        noted.sample()
        assert row[OPEN_FILES.first] == before + 10


def test_cpu_time_is_counted_once(row):
    noted = Sampler([], lambda: [])
    noted.sample()
    first = row[CPU_SECONDS.of("user").index]
    assert first > 0
    for _ in range(10):
        noted.sample()
    assert row[CPU_SECONDS.of("user").index] < 2 * first + 1


def test_redis_that_serves_is_up_and_says_more(row):
    Sampler([], lambda: [(REDIS_WARNINGS, 2)]).probe()
    assert row[REDIS_UP.first] == 1
    assert row[REDIS_WARNINGS.first] == 2
    assert row[REDIS_PROBE_SECONDS.first] > 0


def test_redis_is_not_down_before_it_was_asked(row, monkeypatch):
    monkeypatch.setattr(Sampler, "_beat", lambda sampler: None)
    monkeypatch.setattr(Sampler, "_probe", lambda sampler: None)
    Sampler([], lambda: []).start()
    assert row[REDIS_UP.first] == 1


def test_redis_that_does_not_is_down(row):
    def fail():
        raise ConnectionError

    REDIS_UP.set(1)
    Sampler([], fail).probe()
    assert row[REDIS_UP.first] == 0
