"""The backoff: pauses grow up to a bound, and differ."""

from itertools import islice

import pytest

from app.client import transport
from app.streaming import batch_sender
from app.streaming.backoff import backoff


@pytest.mark.parametrize("module", [transport, batch_sender], ids=lambda module: module.__name__)
def test_pauses_grow_up_to_a_bound_and_differ(module):
    initial, maximum = module.INITIAL_PAUSE_SECONDS, module.MAX_PAUSE_SECONDS
    several = [list(islice(backoff(initial, maximum), 12)) for _ in range(5)]
    assert len({pauses[0] for pauses in several}) > 1
    for pauses in several:
        assert initial / 2 <= pauses[0] <= initial
        assert all(maximum / 2 <= pause <= maximum for pause in pauses[-3:])
