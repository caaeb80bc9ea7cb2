"""The calculator against the bench: costs measured at one load predict another one."""

import shutil

import pytest

from app.costs import Costs
from app.sizing import Load, gateway_cpu, redis_cpu
from tests.bench.costs import SMALL, live_costs, of_live, size, started
from tests.bench.following import live
from tests.bench.servers import Tailrace

SECONDS = 2.0

# The cost of an event depends on how many come together, and on what else the machine does.
FACTOR = 3

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the bench's clients are in C"),
]


@pytest.fixture(scope="module")
def costs() -> Costs:
    # Over one connection, appends come alone, as they do at the loads below.
    small = live_costs(Tailrace, SECONDS, connections=1)
    return Costs(**of_live(small, small))  # all events here have the same size


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
    gateway = gateway_cpu(load, costs, 1)
    redis = redis_cpu(load, costs, 1)
    measured = 1e-6 * figures.cpu_us * figures.events / SECONDS
    measured_redis = 1e-6 * figures.redis_us * figures.events / SECONDS
    assert gateway / FACTOR <= measured <= gateway * FACTOR
    assert redis / FACTOR <= measured_redis <= redis * FACTOR
