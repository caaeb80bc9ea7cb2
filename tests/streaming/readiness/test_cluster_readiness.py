"""Readiness of a cluster, with the nodes and the time replaced."""

from types import SimpleNamespace
from typing import Any

import pytest

from app.streaming.errors import StoreUnavailable
from app.streaming.readiness import cluster_readiness
from app.streaming.readiness.cluster_readiness import PATIENCE_SECONDS, ClusterReadiness
from app.streaming.redis.cluster.slot_map import SLOTS, Shard, SlotMap
from app.streaming.redis.engine import make_engine
from tests.clocks import replace_time


class Silent:
    """A node that does not answer, and the question that it is asked."""

    now = 1000.0
    is_open = True

    def start(self, kind: str, ask: object) -> "Silent":
        return self

    def wait(self, until: float) -> StoreUnavailable:
        Silent.now = max(Silent.now, until)
        return StoreUnavailable("no answer")


@pytest.fixture
def readiness(monkeypatch: pytest.MonkeyPatch) -> ClusterReadiness:
    """Return the readiness of a cluster whose URL names two nodes."""
    monkeypatch.setattr(Silent, "now", 1000.0)
    replace_time(monkeypatch, cluster_readiness, monotonic=lambda: Silent.now)
    seeds = ("host", 1), ("host", 2)
    cluster: Any = SimpleNamespace(seeds=seeds, map=lambda: None, check_seed=lambda address: None)
    return ClusterReadiness(cluster)


def test_all_nodes_together_are_waited_for_once(readiness, monkeypatch):
    monkeypatch.setattr(readiness, "_current", lambda: [Silent() for _ in range(5)])
    assert len(readiness._ask_all("check", lambda node: None)) == 5
    assert Silent.now == 1000.0 + PATIENCE_SECONDS


def test_nodes_that_the_url_names_are_waited_for_once_in_all(readiness, monkeypatch):
    monkeypatch.setattr(cluster_readiness, "_Question", lambda ask: Silent())
    for _ in range(3):
        readiness._check_seeds(readiness._ask_seeds())
        assert Silent.now == 1000.0 + PATIENCE_SECONDS
        assert readiness.silent == {"host:1": "no answer", "host:2": "no answer"}


def test_a_node_that_the_url_names_is_asked_until_it_has_answered(readiness):
    for _ in range(3):
        readiness._check_seeds(readiness._ask_seeds())
    assert (readiness.silent, readiness._seeds) == ({}, {})


def test_the_nodes_are_those_of_one_map(monkeypatch):
    """Another map may come meanwhile, in which a node has no slots: it could try out nothing."""
    cluster = make_engine("redis+cluster://127.0.0.1:1")
    one, other = (cluster.server_at(("127.0.0.1", port)).address for port in (1, 2))
    half = SLOTS // 2
    both = Shard(0, half - 1, one, ()), Shard(half, SLOTS - 1, other, ())
    all_slots = Shard(0, SLOTS - 1, one, ()), Shard(0, SLOTS - 1, other, ())
    maps = iter([both, all_slots[:1], all_slots[1:], both])
    monkeypatch.setattr(cluster, "map", lambda: SlotMap(next(maps), frozenset("x"), True, 1))
    found = ClusterReadiness(cluster)
    assert [each.server.address for each in found._current()] == [one, other]
    assert [each.server.address for each in found._current()] == [one]
    assert [each.server.address for each in found._current()] == [other]
