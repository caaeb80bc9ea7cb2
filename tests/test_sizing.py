"""What a load needs, by the model alone."""

import re
from dataclasses import asdict, replace

import pytest

from app.costs import CLUSTER, ONE_REDIS, Costs, Unusable
from app.sizing import (
    FEWEST_MASTERS,
    MAX_FOLLOWED_RUNS,
    MAX_LOAD,
    MAX_SHARD_BYTES,
    PLANNED_STREAMS,
    REDIS_MEMORY_FACTOR,
    Load,
    needs,
    planned,
)
from tests.bench.costs import size
from tests.bench.following import CONTENT
from tests.redis.measure_memory import SHAPES
from tests.redis.programs import REDIS_8
from tests.redis.test_memory import estimate
from tests.servers import ROOT

COSTS = Costs()
CAPACITY_MD = ROOT / "docs" / "capacity.md"


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_nothing_needs_one_worker_and_one_redis():
    found = needs(Load(runs=0, viewers=0, events=0), COSTS, COSTS)
    assert (found.workers, found.shards, found.cores, found.delivered) == (1, 1, 0, 0)


def test_appends_alone_cost_what_they_cost():
    found = needs(Load(runs=10, viewers=0, events=1000, event_bytes=2000), COSTS, COSTS)
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
    found = needs(load, COSTS, COSTS)
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
    assert needs(small) == planned(small, ONE_REDIS, 1, 1)
    large = Load(runs=100_000, viewers=10**6, events=10_000)
    found = needs(large)
    assert found == planned(large, CLUSTER, found.workers, found.shards)
    assert found.shards > FEWEST_MASTERS


def test_a_cluster_has_three_masters_at_least():
    cheap = Costs(redis_append_us=1, redis_key_us=0)
    appends = Load(runs=1000, viewers=0, events=20_000)
    assert needs(appends, COSTS, cheap).shards == 3
    assert needs(appends, cheap, COSTS).shards == 1
    three = Load(runs=1000, viewers=0, events=1)
    for kept, shards in ((17_400, 1), (17_700, 3), (50_000, 3), (53_000, 4)):
        assert needs(replace(three, kept=kept), COSTS, COSTS).shards == shards


def test_shards_are_for_cpu_or_for_memory_whichever_needs_more():
    busy = needs(Load(runs=1000, viewers=0, events=100_000, kept=1), COSTS, COSTS)
    assert busy.shards == -(-busy.redis_cores // MAX_LOAD)
    full = needs(Load(runs=100_000, viewers=0, events=1, event_bytes=10_000), COSTS, COSTS)
    assert full.shards > 60
    assert full.redis_cores < 0.01


def test_a_run_that_is_too_much_for_one_redis_is_noted():
    [note] = needs(Load(runs=1, viewers=0, events=100_000)).notes
    assert "more events" in note
    assert not needs(Load(runs=1000, viewers=0, events=100_000)).notes


def test_a_run_that_too_many_workers_read_is_noted_among_runs_that_nobody_reads():
    few_hot = Load(runs=1000, viewers=10**6, events=100_000, viewers_per_run=100_000)
    assert any("more events" in note for note in needs(few_hot).notes)
    # The same viewers of all runs are no more than each shard can serve.
    spread = Load(runs=1000, viewers=10**6, events=1000)
    assert not any("more events" in note for note in needs(spread).notes)


@pytest.mark.parametrize("too_many", [False, True])
def test_a_run_is_too_much_if_its_appends_and_reads_fill_half_a_core(too_many):
    appends = 1e-6 * (COSTS.redis_append_us + COSTS.redis_key_us)
    reads = 1e-6 * COSTS.redis_read_us
    free = Costs(redis_append_us_per_kb=0, redis_read_us_per_kb=0, redis_idle_run_us=0)
    workers = 50
    load = Load(runs=100, viewers=10_000, events=0, viewers_per_run=1000)
    readers = load.followed_by(workers) / load.followed
    rate = MAX_LOAD / (appends + readers * reads) * (1.001 if too_many else 0.999)
    found = planned(replace(load, events=100 * rate), free, workers, 100)
    assert any("more events" in note for note in found.notes) == too_many


@pytest.mark.parametrize("too_many", [False, True])
def test_a_run_that_has_too_much_data_for_a_shard_is_noted(too_many):
    event = COSTS.redis_event_bytes + COSTS.redis_key_bytes + 1000 * COSTS.redis_data_factor
    kept = int(MAX_SHARD_BYTES / event) + (1 if too_many else -1000)
    notes = needs(Load(runs=2, viewers=0, events=0, event_bytes=1000, kept=kept)).notes
    assert ["more data" in note for note in notes] == [True] * too_many


@pytest.mark.parametrize(("gigabytes", "too_many"), [(15_900, False), (16_100, True)])
def test_more_shards_than_a_cluster_should_have_are_noted(gigabytes, too_many):
    costs = Costs(redis_run_bytes=1e6)
    load = Load(runs=gigabytes * 1000, viewers=0, events=0, kept=0)
    notes = needs(load, costs, costs).notes
    assert ["several clusters" in note for note in notes] == [True] * too_many


def test_more_connections_than_redis_takes_are_noted():
    [note] = needs(Load(runs=1, viewers=10**7, events=1)).notes
    assert "maxclients" in note
    assert "one gateway" in note


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_memory_of_redis_is_that_of_its_documentation(shape):
    costs = COSTS if shape.keys else replace(COSTS, redis_key_bytes=0)
    load = Load(shape.runs, 0, 0, event_bytes=shape.data, kept=shape.events)
    found = planned(load, costs, 1, 1).redis_memory_bytes / REDIS_MEMORY_FACTOR
    assert found / shape.runs == pytest.approx(estimate(shape, REDIS_8))


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
    found = needs(Load(10**9, 10**9, 1e9, 10**9, merged=10**9, kept=10**9), COSTS, COSTS)
    assert found.workers > 10**9


@pytest.mark.parametrize(
    "measured",
    [[], None, 1, {"other": 1}, {"send_us": "1"}, {"send_us": True}, {"send_us": -1},
     {"send_us": float("nan")}, {"send_us": float("inf")}, {"send_us": 10**400}],
)  # fmt: skip
def test_what_is_no_costs_is_refused(measured):
    with pytest.raises(Unusable):
        COSTS.with_measured(measured)


def test_costs_that_are_not_given_are_those_of_the_documentation():
    assert ONE_REDIS.with_measured({"send_us": 3}) == Costs(send_us=3)
    assert CLUSTER.with_measured({"send_us": 3}) == replace(CLUSTER, send_us=3)
    assert CLUSTER.with_measured({}) == CLUSTER


def test_the_documentation_has_the_costs():
    text = CAPACITY_MD.read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([0-9,.]+) \| ([0-9,.]+|the same) \|", text, re.MULTILINE)
    assert {name: number(one) for name, one, _ in rows} == asdict(ONE_REDIS)
    of_a_cluster = {name: number(one if two == "the same" else two) for name, one, two in rows}
    assert of_a_cluster == asdict(CLUSTER)


@pytest.mark.parametrize(
    ("name", "costs", "shards"), [("one Redis", ONE_REDIS, 1), ("3 masters", CLUSTER, 3)]
)
def test_the_documentation_has_what_the_model_says_of_20_000_streams(name, costs, shards):
    row = re.compile(
        rf"^\| {name} \| \d+ µs \| (\d+) µs \| \d+ µs \| (\d+) µs \| .* \| (\d+) \|$", re.MULTILINE
    )
    load = Load(runs=2000, viewers=20_000, events=500, event_bytes=size(len(CONTENT)))
    model = planned(load, replace(costs, redis_key_us=0), 4, shards)
    shown = [int(each) for each in row.search(CAPACITY_MD.read_text()).groups()]
    each_us = 1e6 / model.delivered
    assert shown[:2] == [round(each_us * model.cores), round(each_us * model.redis_cores)]
    assert shown[2] == model.redis_connections


def test_the_documentation_has_what_125_gateways_need_of_their_cluster():
    sentence = r"Together they need (\d+) shards, for the data, and up to ([\d,]+) connections"
    shards, connections = re.search(sentence, CAPACITY_MD.read_text()).groups()
    # Each run is read by one worker: those of its viewers are at the same gateway.
    alone = Load(runs=100_000, viewers=100_000, events=10_000)
    found = needs(alone)
    assert number(shards) == found.shards
    assert found.redis_cores / MAX_LOAD < found.shards - 1
    assert number(connections) == planned(alone, CLUSTER, 125, found.shards).redis_connections
