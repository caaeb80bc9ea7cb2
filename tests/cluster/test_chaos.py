"""A small storm on a cluster, and what its comparison takes for lost by a failover."""

import asyncio
import random

import pytest

from tests.chaos.cluster import slot_of
from tests.chaos.comparison import Report, compare
from tests.chaos.failovers import Failover, Failovers
from tests.chaos.followers import Follower
from tests.chaos.producers import Entry, Producer
from tests.chaos.storm import Plan, storm
from tests.chaos.streamers import Streamer
from tests.redis.programs import REDIS_OF_DEBIAN, VALKEY_8


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("program", "ack_replicas"), [REDIS_OF_DEBIAN.case(0, "0"), VALKEY_8.case(1, "1")]
)
def test_a_storm_on_a_cluster_loses_only_what_failovers_lose_and_tells_of_it(
    tmp_path, ack_replicas, binary
):
    dice = random.randrange(10**6)
    size = {"faults": 10, "events": 1500, "seconds": 6, "changing": 20}
    plan = Plan(seed=dice, cluster=True, binary=binary, ack_replicas=ack_replicas, **size)
    outcome = asyncio.run(storm(plan, tmp_path))
    report = outcome.report
    assert report.wrong == [], plan
    assert (report.acknowledged, report.faults) == (plan.events, plan.faults), plan
    assert report.lost_by_failovers == 0 or not ack_replicas
    assert report.delivered >= 3 * plan.events, plan


# A run in whose log 1 to 3 were appended before the failover, of which 3 was lost, and 4 after it.
RUN = "1"
BEGAN, ENDED = 30, 50
ONE, TWO, LOST = (Entry(f"{10 * number}-0", number, 0, number) for number in (1, 2, 3))
FOUR = Entry("40-0", 3, 0, 4)
LOG = [ONE, TWO, FOUR]


def compared(
    records: list[list[Entry]],
    told: set[int] = frozenset(),
    *,
    acknowledged: list[Entry] = (ONE, TWO, LOST, FOUR),
    acknowledged_too: bool = True,
    slot: int = slot_of(RUN),
    began: int = BEGAN,
    ended: int = ENDED,
    log: list[Entry] = LOG,
) -> Report:
    """Compare the log and the records of a follower, which got a reset at the end of some."""
    producer = Producer(0, [RUN], seed=0)
    producer.acknowledged[RUN] = list(acknowledged)
    producer.made = {entry.number: int(entry.id.split("-")[0]) for entry in (*LOG, LOST)}
    follower = Follower(0, 0, RUN, seed=0)
    follower.records, follower.told = [list(each) for each in records], set(told)
    failovers = Failovers(acknowledged_too, [Failover(frozenset({slot}), began, ended)])
    return compare({RUN: log}, [producer], [follower], failovers)


@pytest.mark.parametrize(
    "lost", [LOST, LOST._replace(id=None), LOST._replace(id=None, sequence=None)]
)
def test_the_end_of_a_log_may_be_lost_at_a_failover(lost):
    report = compared([LOG], acknowledged=[ONE, TWO, lost, FOUR])
    # The other event with that sequence may be the one that the streamer speaks of.
    assert (report.wrong, report.lost_by_failovers) == ([], 1)


@pytest.mark.parametrize(
    "how",
    [
        {"acknowledged_too": False},
        {"slot": slot_of(RUN) + 1},
        {"ended": 29},
        {"began": 41},
        {"log": [ONE, TWO, Entry("31-0", 3, 0, 4), Entry("45-0", 4, 0, 5)], "began": 35},
    ],
    ids=["acknowledged", "elsewhere", "after it", "in the middle", "between others"],
)
def test_nothing_else_may_be_lost(how):
    assert "log of 1: 1 lost" in compared([LOG], **how).wrong


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([[ONE, TWO, LOST], LOG], {0}),
        ([[ONE, TWO, LOST], [ONE], LOG], {0}),
        ([[ONE, LOST._replace(number=2, sequence=2), LOST], LOG], {0}),
        ([[ONE, TWO, LOST], LOG], set()),  # it left, and came back without a cursor
    ],
)
def test_who_has_a_lost_event_gets_a_reset_and_the_log(records, told):
    report = compared(records, told)
    assert (report.wrong, report.told) == ([], len(told))


@pytest.mark.parametrize(
    ("records", "told", "wrong"),
    [
        ([[ONE, TWO, LOST, FOUR]], set(), "1 events that are not in the log"),
        ([[ONE, TWO, LOST], [FOUR]], {0}, "2 lost"),
        ([[ONE, TWO], LOG], {0}, "1 resets"),
        ([[ONE, LOST, TWO], LOG], {0}, "1 events that are not in the log"),
        ([[TWO, LOST], LOG], {0}, "1 lost"),
        ([[ONE, TWO, LOST, LOST], LOG], {0}, "1 doubled"),
        ([[ONE, TWO, LOST], [ONE, TWO]], {0}, "1 stuck"),
    ],
    ids=["untold", "not the log", "needless", "hole", "beginning", "twice", "stuck"],
)
def test_a_follower_with_a_lost_event_must_get_all_of_that(records, told, wrong):
    assert wrong in " ".join(compared(records, told).wrong)


@pytest.mark.parametrize(
    ("is_acknowledged", "failovers", "lost"),
    [
        (False, Failovers(), 2),
        (True, Failovers(), 2),
        (False, Failovers(False, [Failover(frozenset({slot_of(RUN)}), 0, 1)]), 0),
        (True, Failovers(False, [Failover(frozenset({slot_of(RUN)}), 0, 1)]), 2),
        (True, Failovers(True, [Failover(frozenset({slot_of(RUN)}), 0, 1)]), 0),
    ],
)
def test_a_streamer_may_find_less_than_it_knew_only_after_a_failover(
    is_acknowledged, failovers, lost
):
    streamer = Streamer(0, RUN, 0, 0)
    streamer.missing.append((2, is_acknowledged))
    assert compare({RUN: []}, [streamer], [], failovers).lost == lost


def test_a_client_that_reconnects_with_what_it_had_before_a_reset_needs_the_reset_again():
    follower = Follower(0, 0, RUN, seed=0)
    follower.records = [[ONE, TWO, LOST]]
    for _ in range(2):
        follower._take("event: gateway.reset\ndata: {}")
        assert (follower.told, follower.records) == ({0}, [[ONE, TWO, LOST], []])
        for part in follower._reset_since_cursor:
            part.take_reset_back()
        follower._reset_since_cursor.clear()
        assert (follower.told, follower.records) == (set(), [[ONE, TWO, LOST]])


@pytest.mark.parametrize(
    ("last_sequence", "missing", "is_wrong"),
    [(13, [(2, True)], False), (9, [(6, True)], False), (15, [], True), (16, [], True)],
)
def test_a_streamer_whose_request_is_refused_has_stored_what_the_answer_says(
    last_sequence, missing, is_wrong
):
    """Of a request, 5 lines behind 10 events are stored, and then the run has fewer or more."""
    streamer = Streamer(0, RUN, 0, 0)
    streamer._acknowledge(10, "1-0", 10)
    answer = {"stored": 5, "last_id": "2-0", "last_sequence": last_sequence}
    asyncio.run(streamer._take(range(10, 20), 409, answer))
    assert streamer.missing == missing
    assert bool(streamer.wrong) == is_wrong
    assert streamer.acknowledged[RUN][-1] == Entry("2-0", 15, 0, 14)
