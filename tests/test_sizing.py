"""What a load needs, by the model alone."""

import re
from dataclasses import asdict

import pytest

from app.costs import CLUSTER, ONE_REDIS, Costs, Unusable
from app.sizing import MAX_FOLLOWED_RUNS, MAX_LOAD, PLANNED_STREAMS, Load, needs
from tests.servers import ROOT

COSTS = Costs()


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_nothing_needs_one_worker_and_one_redis():
    found = needs(Load(runs=0, viewers=0, events=0), COSTS)
    assert (found.workers, found.shards, found.cores, found.delivered) == (1, 1, 0, 0)


def test_appends_alone_cost_what_they_cost():
    found = needs(Load(runs=10, viewers=0, events=1000, event_bytes=2000), COSTS)
    each = COSTS.append_us + 2 * COSTS.append_us_per_kb
    assert found.cores == pytest.approx(each / 1000)
    assert found.out_bytes == pytest.approx(1000 * COSTS.answer_bytes)


def test_a_run_is_read_once_by_each_worker_that_follows_it():
    load = Load(runs=1, viewers=1000, events=10)
    assert load.followed_by(1) == 1
    assert load.followed_by(4) == pytest.approx(4)
    each_alone = Load(runs=1000, viewers=1000, events=10)
    assert each_alone.followed_by(4) == pytest.approx(1000)


def test_of_two_viewers_of_a_run_half_share_the_worker_where_there_are_two():
    assert Load(runs=10, viewers=20, events=1).followed_by(2) == pytest.approx(15)


def test_viewers_who_watch_the_same_few_runs_leave_the_others_unread():
    load = Load(runs=1000, viewers=1000, events=1000, viewers_per_run=100)
    assert (load.followers, load.followed, load.delivered) == (100, 10, 1000)


def test_a_stream_of_several_runs_delivers_the_events_of_each():
    load = Load(runs=100, viewers=10, events=100, merged=20)
    assert (load.delivered, load.followed, load.followers) == (200, 100, 2)


@pytest.mark.parametrize(
    "load",
    [
        Load(runs=1, viewers=0, events=100_000),
        Load(runs=1, viewers=500_000, events=0),
        Load(runs=100_000, viewers=100_000, events=0),
        Load(runs=5000, viewers=50_000, events=5000),
    ],
    ids=["appends", "streams", "runs", "all"],
)
def test_no_worker_has_too_much_to_do_and_one_fewer_would_not_do(load):
    found = needs(load, COSTS)
    fewer = found.workers - 1
    assert found.cores <= MAX_LOAD * found.workers
    assert load.viewers <= PLANNED_STREAMS * found.workers
    assert found.followed_per_worker <= MAX_FOLLOWED_RUNS
    assert (
        found.cores > MAX_LOAD * fewer * 0.99
        or load.viewers > PLANNED_STREAMS * fewer
        or load.followed_by(fewer) > MAX_FOLLOWED_RUNS * fewer
    )


def test_where_one_redis_is_not_enough_the_costs_are_those_of_a_cluster():
    small = Load(runs=1000, viewers=1000, events=1000)
    assert needs(small) == needs(small, ONE_REDIS)
    large = Load(runs=100_000, viewers=10**6, events=10_000)
    assert needs(large).redis_cores == needs(large, CLUSTER).redis_cores
    # By the costs of a cluster, one master would do.
    between = Load(runs=1000, viewers=10_000, events=1500)
    assert needs(between, CLUSTER).shards == 1 < needs(between, ONE_REDIS).shards
    assert needs(between).shards == 2


def test_shards_are_for_cpu_or_for_memory_whichever_needs_more():
    busy = needs(Load(runs=1000, viewers=0, events=100_000, kept=1), COSTS)
    assert busy.shards == -(-busy.redis_cores // MAX_LOAD)
    full = needs(Load(runs=100_000, viewers=0, events=1, event_bytes=10_000), COSTS)
    assert full.shards > 60
    assert full.redis_cores < 0.01


def test_a_run_that_is_too_much_for_one_redis_is_noted():
    assert "on one shard" in needs(Load(runs=1, viewers=0, events=100_000), COSTS).notes[0]
    assert not needs(Load(runs=1000, viewers=0, events=100_000), COSTS).notes


def test_more_connections_than_redis_takes_are_noted():
    assert "maxclients" in needs(Load(runs=1, viewers=10**7, events=1), COSTS).notes[0]


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ({"runs": 0, "viewers": 1, "events": 0}, "without runs"),
        ({"runs": 0, "viewers": 0, "events": 1}, "without runs"),
        ({"runs": 5, "viewers": 1, "events": 0, "merged": 6}, "6 of 5 runs"),
        ({"runs": 5, "viewers": 2, "events": 0, "viewers_per_run": 3}, "3 viewers of 2"),
        ({"runs": 5, "viewers": 50, "events": 0, "viewers_per_run": 2}, "at least 10 viewers"),
    ],
)
def test_a_load_that_cannot_be_is_refused(load, message):
    with pytest.raises(Unusable, match=message):
        Load(**load)


def test_the_largest_load_is_answered():
    found = needs(Load(10**9, 10**9, 1e9, 10**9, merged=10**9, kept=10**9), COSTS)
    assert found.workers > 10**9


@pytest.mark.parametrize(
    "measured",
    [[], None, 1, {"other": 1}, {"send_us": "1"}, {"send_us": True}, {"send_us": -1},
     {"send_us": float("nan")}, {"send_us": float("inf")}, {"send_us": 10**400}],
)  # fmt: skip
def test_what_is_no_costs_is_refused(measured):
    with pytest.raises(Unusable):
        Costs.of(measured)


def test_costs_that_are_not_given_are_those_of_the_documentation():
    assert Costs.of({"send_us": 3}) == Costs(send_us=3)


def test_the_documentation_has_the_costs():
    text = (ROOT / "docs" / "capacity.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([0-9,.]+) \| ([0-9,.]+|the same) \|", text, re.MULTILINE)
    assert {name: number(one) for name, one, _ in rows} == asdict(ONE_REDIS)
    of_a_cluster = {name: number(one if two == "the same" else two) for name, one, two in rows}
    assert of_a_cluster == asdict(CLUSTER)
