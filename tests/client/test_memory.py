"""The memory of small events that a program holds: those it has read, and those that wait."""

import pytest

from tests.run_program import run_program


@pytest.mark.parametrize("way", ["read", "emitted"])
def test_a_small_event_takes_a_few_hundred_bytes(way):
    ended = run_program("hold_events", way)
    assert ended.stderr == ""
    assert int(ended.stdout) < 1000  # a result of orjson holds 4,000
