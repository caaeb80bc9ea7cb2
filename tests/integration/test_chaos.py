"""A small storm of faults: no event is lost, doubled or out of order, and no follower is stuck."""

import asyncio
import random

import pytest

from tests.chaos.comparison import compare
from tests.chaos.followers import Follower
from tests.chaos.producers import Entry, Producer
from tests.chaos.storm import Plan, storm

KINDS = {"posts", "batches", "streams", "appender, Redis", "appender, HTTP", "appender, asyncio"}
KINDS |= {"appender, JavaScript"}
LOG = [Entry(f"{number}-0", number, 0, number) for number in range(1, 5)]
ONE, TWO, THREE, FOUR = LOG


@pytest.mark.timeout(200)
def test_a_storm_of_faults_loses_and_doubles_no_event_and_leaves_no_follower_stuck(tmp_path):
    plan = Plan(seed=random.randrange(10**6), faults=28, events=4000, seconds=8)
    outcome = asyncio.run(storm(plan, tmp_path))
    report = outcome.report
    assert report.wrong == [], plan
    assert (report.acknowledged, report.faults) == (plan.events, plan.faults), plan
    assert report.acknowledged_by_kind.keys() == KINDS
    assert report.delivered >= 3 * plan.events, plan


def errors_in(log: list[Entry], acknowledged: list[Entry], *records: list[Entry]) -> dict[str, int]:
    """Return the figures of what is wrong with a log and a follower's records."""
    producer = Producer(0, ["1"], seed=0)
    producer.acknowledged["1"] = acknowledged
    follower = Follower(0, 0, "1", seed=0)
    follower.records = list(records)
    report = compare({"1": log}, [producer], [follower])
    names = ("lost", "doubled", "out_of_order", "stuck")
    figures = {name: getattr(report, name) for name in names if getattr(report, name)}
    return figures | ({"strays": 1} if "events that" in " ".join(report.wrong) else {})


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([LOG], {}),
        ([[ONE, TWO], [], LOG], {}),
        ([[ONE, TWO, FOUR]], {"lost": 1}),
        ([[ONE, THREE], LOG], {"lost": 1}),
        ([[ONE, TWO, TWO, THREE, FOUR]], {"doubled": 1}),
        ([[ONE, THREE, TWO, FOUR]], {"out_of_order": 1}),
        ([[ONE, TWO, THREE]], {"stuck": 1}),
        ([[]], {"stuck": 1}),
        ([[ONE, TWO, THREE, Entry("4-0", 5, 0, 5), FOUR]], {"strays": 1, "out_of_order": 1}),
    ],
)
def test_a_record_is_compared_with_the_log(records, expected):
    assert errors_in(LOG, LOG, *records) == expected


@pytest.mark.parametrize(
    ("log", "acknowledged", "expected"),
    [
        ([ONE, TWO], [ONE, TWO, THREE], {"lost": 1}),
        ([ONE, TWO], [ONE._replace(id=None), TWO._replace(id=None, sequence=None)], {}),
        ([ONE, TWO], [ONE, TWO._replace(id=None, sequence=3)], {"lost": 1}),
        ([ONE, TWO, Entry("3-0", 3, 0, 2)], [ONE, TWO], {"doubled": 1}),
        ([ONE, TWO, THREE], [ONE, TWO], {"strays": 1}),
        ([ONE, Entry("2-0", 2, 0, 9), THREE], [ONE, Entry("2-0", 2, 0, 9), THREE],
         {"out_of_order": 1}),
        ([ONE, THREE], [ONE, THREE], {"out_of_order": 1}),
    ],
)  # fmt: skip
def test_the_log_is_compared_with_what_was_acknowledged(log, acknowledged, expected):
    assert errors_in(log, acknowledged, log) == expected
