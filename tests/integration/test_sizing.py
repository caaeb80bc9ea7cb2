"""The calculator against the bench: costs measured at one load predict another one.

What depends on the machine, CPU, is compared with costs that were measured just before. Bytes and
connections are compared with the costs of docs/capacity.md.
"""

import shutil
from dataclasses import dataclass, replace

import pytest

from app.costs import CLUSTER, Costs
from app.sizing import GATEWAY_MEMORY_FACTOR, REDIS_MEMORY_FACTOR, Load, Needs, planned
from tests.bench.costs import (
    SMALL,
    delivered_bytes,
    live_costs,
    of_live,
    redis_bytes,
    size,
    started,
)
from tests.bench.following import CONTENT, Viewers, live, produce
from tests.bench.servers import FourWorkersOnThreeMasters, Server, Tailrace, ThreeMasters
from tests.redis.measure_memory import by_keys
from tests.servers import wait_until

SECONDS = 2.0

# The cost of an event depends on how many come together, and on what else the machine does.
FACTOR = 3

# The bench's producers send no idempotency keys.
NO_KEYS = {"redis_key_us": 0.0, "redis_key_bytes": 0.0}

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the bench's clients are in C"),
]


def costs_of(kind: type[Server]) -> dict[str, float]:
    # Over one connection, appends come alone, as they do at the loads below.
    small = live_costs(kind, SECONDS, connections=1)
    return of_live(small, small) | NO_KEYS  # all events here have the same size


@pytest.fixture(scope="module")
def costs() -> Costs:
    return Costs(**costs_of(Tailrace))


@pytest.mark.parametrize(
    "load",
    [
        Load(runs=100, viewers=100, events=300, event_bytes=size(SMALL)),
        Load(runs=1, viewers=500, events=40, event_bytes=size(SMALL)),
        Load(runs=20, viewers=400, events=150, event_bytes=size(SMALL)),
    ],
    ids=["appends and reads", "deliveries", "both"],
)
def test_the_model_predicts_another_load_than_that_at_which_it_was_measured(costs, load):
    with started(Tailrace) as server:
        figures = live(server, load.viewers, load.runs, load.events, SECONDS)
    assert figures.notes["delivered of expected"] == 1
    model = planned(load, costs, 1, 1)
    is_near(1e-6 * figures.cpu_us * figures.events / SECONDS, model.cores, FACTOR)
    is_near(1e-6 * figures.redis_us * figures.events / SECONDS, model.redis_cores, FACTOR)
    assert figures.notes["connections to Redis"] <= model.redis_connections


@dataclass(frozen=True)
class Carried:
    """What a load took: as in Needs, without what is planned for bursts; bytes in all."""

    seconds: float
    cores: float
    memory_bytes: float
    redis_cores: float
    redis_memory_bytes: float
    redis_connections: int
    redis_bytes: float
    delivered_bytes: float


# Each run has 10 viewers, who are on the four workers, and its log keeps as many events.
MANY = Load(runs=60, viewers=600, events=300, event_bytes=size(len(CONTENT)), kept=10)


@pytest.fixture(scope="module")
def carried() -> Carried:
    """The load, on four workers and three masters."""
    with (
        started(FourWorkersOnThreeMasters) as server,
        Viewers(server, MANY.viewers, MANY.runs) as audience,
    ):
        audience.count()
        cpu, redis_cpu = server.cpu(), server.redis_cpu()
        moved, sent = redis_bytes(server), delivered_bytes(server)
        produce(server, MANY.runs, MANY.events, SECONDS)
        left = [int(MANY.delivered * SECONDS)]

        def all_came() -> bool:
            left[0] -= audience.count()["events"]
            return left[0] <= 0

        wait_until(all_came, "every event came to every viewer")
        assert left == [0]
        return Carried(
            SECONDS,
            (server.cpu() - cpu) / SECONDS,
            server.memory(),
            (server.redis_cpu() - redis_cpu) / SECONDS,
            memory_of_keys(server),
            server.redis_connections(),
            redis_bytes(server) - moved,
            delivered_bytes(server) - sent,
        )


@pytest.fixture(scope="module")
def model() -> Needs:
    return planned(MANY, replace(CLUSTER, **NO_KEYS), 4, 3)


def test_the_model_predicts_the_cores_of_four_workers_on_three_masters(carried):
    model = planned(MANY, replace(CLUSTER, **costs_of(ThreeMasters)), 4, 3)
    is_near(carried.cores, model.cores, FACTOR)
    is_near(carried.redis_cores, model.redis_cores, FACTOR)


def test_the_model_predicts_the_memory_of_four_workers_on_three_masters(carried, model):
    # The costs count a master for each worker, and here is one for all.
    is_near(carried.memory_bytes, model.memory_bytes / GATEWAY_MEMORY_FACTOR, 1.7)
    is_near(carried.redis_memory_bytes, model.redis_memory_bytes / REDIS_MEMORY_FACTOR, 1.5)


def test_the_model_predicts_the_network_of_four_workers_on_three_masters(carried, model):
    answers = MANY.events * CLUSTER.answer_bytes
    is_near(carried.delivered_bytes, (model.out_bytes - answers) * SECONDS, 1.1)
    is_near(carried.redis_bytes, model.redis_bytes * SECONDS, FACTOR)


def test_no_master_has_more_connections_than_the_model_says(carried, model):
    assert 4 <= carried.redis_connections <= model.redis_connections


def is_near(measured: float, expected: float, factor: float) -> None:
    """Assert that two figures differ by a factor at most."""
    assert expected / factor <= measured <= expected * factor


def memory_of_keys(server: Server) -> float:
    total = 0
    for shard in server.shards:
        with shard.client() as client:
            total += by_keys(client)
    return total
