"""Readiness of a cluster, with the nodes and the time replaced."""

from types import SimpleNamespace
from typing import Any

import pytest

from app.streaming.errors import StoreUnavailable
from app.streaming.readiness import cluster_readiness
from app.streaming.readiness.cluster_readiness import PATIENCE_SECONDS, ClusterReadiness
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
        assert readiness.silent == ["host:1", "host:2"]


def test_a_node_that_the_url_names_is_asked_until_it_has_answered(readiness):
    for _ in range(3):
        readiness._check_seeds(readiness._ask_seeds())
    assert (readiness.silent, readiness._seeds) == ([], {})
