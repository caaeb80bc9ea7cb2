"""Readiness of a cluster, with the nodes and the time replaced."""

import pytest

from app.streaming.readiness import cluster_readiness
from app.streaming.readiness.cluster_readiness import PATIENCE_SECONDS, ClusterReadiness
from tests.clocks import replace_time


class Silent:
    """A node that does not answer, and the question that it is asked."""

    now = 1000.0

    def start(self, kind: str, ask: object) -> "Silent":
        return self

    def wait(self, until: float) -> None:
        Silent.now = max(Silent.now, until)


def test_all_nodes_together_are_waited_for_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Silent, "now", 1000.0)
    replace_time(monkeypatch, cluster_readiness, monotonic=lambda: Silent.now)
    readiness = ClusterReadiness(None)  # type: ignore[arg-type]
    monkeypatch.setattr(readiness, "_current", lambda: [Silent() for _ in range(5)])
    assert len(readiness._ask_all("check", lambda node: None)) == 5
    assert Silent.now == 1000.0 + PATIENCE_SECONDS
