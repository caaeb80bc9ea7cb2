"""Silence: from a reply that timed out until a PING is answered, and no longer."""

import gc
import os
import threading
import weakref
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from app.streaming.errors import TimedOut
from app.streaming.redis.cluster import silent_nodes
from app.streaming.redis.cluster.silent_nodes import SilentNodes
from tests.servers import wait_until
from tests.streaming.redis.cluster.silence import Control

UNANSWERED = TimedOut("no answer in time", stored=None)


class Node:
    """A node that answers when the test says so."""

    name = "host:1"

    def __init__(self):
        self.control, self.availability = Control(), Mock(closed=False)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.control.answer()


@pytest.fixture
def goes_on() -> Mock:
    return Mock()


@pytest.fixture
def silent(monkeypatch, goes_on) -> SilentNodes:
    monkeypatch.setattr(silent_nodes, "PAUSE_SECONDS", 0.0)
    return SilentNodes(goes_on)


def test_a_node_is_not_silent_before_a_reply_of_it_timed_out(silent, node):
    assert silent.error_of(node) is None
    assert node.control.asked == 0


def test_it_is_until_it_answers_a_ping(silent, node, goes_on):
    silent.add(node, UNANSWERED)
    error = silent.error_of(node)
    assert error.stored is False
    assert str(error) == (
        "nothing was sent to host:1, which has stopped answering: no answer in time"
    )
    node.control.fail()
    wait_until(lambda: goes_on.call_count == 1 and node.control.asked == 2, "it is asked again")
    assert "no answer to PING" in str(silent.error_of(node))
    node.availability.interrupted.assert_not_called()
    node.control.answer()
    wait_until(lambda: silent.error_of(node) is None, "it is no longer silent")
    # Producers could not write until now: their leases count from here.
    wait_until(lambda: node.availability.interrupted.called, "the leases count anew")
    assert goes_on.call_count == 1


def test_it_may_be_silent_again(silent, node):
    for _ in range(2):
        silent.add(node, UNANSWERED)
        assert silent.error_of(node) is not None
        node.control.answer()
        wait_until(lambda: silent.error_of(node) is None, "it is no longer silent")


def test_one_thread_asks_for_all_that_timed_out(silent, node):
    for _ in range(10):
        silent.add(node, UNANSWERED)
    wait_until(lambda: node.control.asked, "it is asked")
    assert node.control.asked == 1


def test_others_are_not_silent(silent, node):
    silent.add(node, UNANSWERED)
    assert silent.error_of(Node()) is None


def test_a_node_that_has_left_the_cluster_is_asked_no_more(silent, node):
    silent.add(node, UNANSWERED)
    node.availability.closed = True
    node.control.fail()
    wait_until(lambda: silent.error_of(node) is None, "it is no longer silent")
    wait_until(lambda: node.control.closed, "its connection is closed")
    silent.add(node, UNANSWERED)  # a call was still on its way there
    assert silent.error_of(node) is None
    assert node.control.asked == 1


def test_nobody_is_silent_for_whom_nobody_asks(silent, node, monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("no more")))
    silent.add(node, UNANSWERED)
    assert silent.error_of(node) is None


def test_nobody_is_silent_in_a_fork(silent, node):
    silent.add(node, UNANSWERED)
    if (child := os.fork()) == 0:
        os._exit(silent.error_of(node) is not None)
    assert os.waitpid(child, 0)[1] == 0
    assert silent.error_of(node) is not None


def test_the_thread_ends_with_the_cluster(silent, node):
    asked = SilentNodes(Mock())
    asked.add(node, UNANSWERED)
    thread = asked._silences[node]
    reference = weakref.ref(asked)
    del asked
    node.control.fail()
    thread.join(20)
    gc.collect()
    assert not thread.is_alive()
    assert reference() is None
