"""The short form of the contract test; `python -m tests.contract` is the long one."""

import random
from functools import partial

from tests.contract.stories import Tally, compare
from tests.contract.world import World

SECONDS = 8


def test_the_gateway_does_what_the_documents_say(gateway, redis_client):
    seed = random.randrange(10**6)
    fault = compare(seed, partial(World, gateway.port, redis_client), SECONDS, Tally())
    assert fault is None, f"seed {seed}\n{fault}"
