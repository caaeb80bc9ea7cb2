"""The short form of the contract test; `python -m tests.contract` is the long one."""

import random
from functools import partial

from tests.contract.stories import Tally, compare
from tests.contract.world import World, connect_worker

SECONDS = 8


def test_the_gateway_does_what_the_documents_say(gateway, redis_client):
    seed = random.randrange(10**6)
    make_world = partial(World, gateway.port, redis_client, connect_worker(gateway.port))
    fault = compare(seed, make_world, SECONDS, Tally())
    assert fault is None, f"seed {seed}\n{fault}"
