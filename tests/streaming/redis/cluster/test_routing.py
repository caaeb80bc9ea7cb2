"""Routing on nodes that are made up: where a command goes on what a node has replied."""

import contextlib
from functools import partial
from unittest.mock import Mock

import pytest
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    TryAgainError,
)

from app.streaming.errors import ReentrantCall, StoreUnavailable, TimedOut
from app.streaming.redis.cluster import routing
from app.streaming.redis.cluster.routing import Routed
from app.streaming.redis.cluster.silent_nodes import SilentNodes
from app.streaming.redis.connection import Loading
from app.streaming.redis.scripts import Script
from app.streaming.reentrancy import one_call_per_thread
from tests.servers import wait_until
from tests.streaming.redis.cluster.silence import Control

KEY = "run:a:events"
READ = ("XLEN", KEY)
ASK, MOVED = AskError("1 host:2"), MovedError("1 host:2")
LOST = StoreUnavailable("the reply was lost", stored=None)
NOT_SENT = StoreUnavailable("it is away", stored=False)
UNANSWERED = TimedOut("no answer in time", stored=None)


class Node:
    """A node with replies in a row; an error of ours is raised."""

    name = "node"
    asking = "OK"  # the reply to ASKING

    def __init__(self, *replies):
        self.replies, self.sent = list(replies), []
        self.control, self.availability = Control(), Mock(closed=False)

    def call_all(self, *commands):
        self.sent += commands
        found = [self.asking if each == ("ASKING",) else self.replies.pop(0) for each in commands]
        if isinstance(found[0], StoreUnavailable):
            raise found[0]
        return found


class Nodes:
    """Two nodes. `owner` has the slot; a map that is read anew says `then`."""

    def __init__(self, owner, other, then=None):
        self.refreshes, self.owner, self.other, self.then = 0, owner, other, then
        self.soon, self.silent = 0, SilentNodes(self.read_soon)

    def read_soon(self):
        self.soon += 1

    def known_server_of(self, key):
        return self.owner

    def moved(self, slot, host, port, by):
        self.owner = self.node_at(host, port, by)
        return self.owner

    def node_at(self, host, port, by):
        return self.other if by is not self.other else self.owner

    def refresh_after(self, seen):
        self.refreshes += 1
        self.owner = self.then or self.owner


class Owners(Nodes):
    """Two nodes; the first has the slot of KEY, and the second all others."""

    def known_server_of(self, key):
        return self.owner if key == KEY else self.other


OTHER_READ = ("XLEN", "run:b:events")


def call(nodes: Nodes, *command):
    return Routed(nodes, lambda node: node).call(*(command or READ))


def test_moved_is_followed_and_kept():
    first, second = Node(MOVED), Node(5, 6)
    nodes = Nodes(first, second)
    assert [call(nodes), call(nodes)] == [5, 6]
    assert (first.sent, second.sent) == ([READ], [READ, READ])


def test_ask_is_followed_once_with_asking():
    first, second = Node(ASK, 6), Node(5)
    nodes = Nodes(first, second)
    assert [call(nodes), call(nodes)] == [5, 6]
    assert second.sent == [("ASKING",), READ]


def test_a_slot_on_its_way_to_a_node_that_does_not_answer_is_named():
    first, second = Node(*[ASK] * 20), Node(*[NOT_SENT] * 20)
    with pytest.raises(StoreUnavailable) as raised:
        call(Nodes(first, second))
    reason = f"the slot {key_slot(KEY.encode())} is on its way to node, which does not answer"
    assert (str(raised.value), raised.value.stored) == (reason, False)
    assert first.sent == [READ] * 2


def test_a_slot_on_its_way_that_has_gone_elsewhere_meanwhile_is_followed():
    first, second = Node(ASK, 5), Node(NOT_SENT)
    assert call(Nodes(first, second)) == 5


def test_what_was_asked_for_at_a_node_that_does_not_reply_is_unknown():
    first, second = Node(ASK), Node(LOST)
    with pytest.raises(StoreUnavailable, match="the reply was lost") as raised:
        call(Nodes(first, second))
    assert raised.value.stored is None


def test_a_user_who_may_not_ask_gets_that_error():
    first, second = Node(ASK), Node(MOVED)
    refusal = NoPermissionError("no permissions to run the 'asking' command")
    second.asking = refusal
    assert call(Nodes(first, second)) is refusal
    second.replies, second.sent = [5], []
    first.replies = [ASK]
    assert call(Nodes(first, second)) == 5, "the slot has arrived, so it was carried out"


def test_redirections_without_an_end_are_given_up():
    first, second = Node(*[MOVED] * 20), Node(*[MOVED] * 20)
    nodes = Nodes(first, second)
    assert isinstance(call(nodes), MovedError)
    assert len(first.sent + second.sent) <= routing.MAX_REDIRECTIONS + 2


def test_try_again_is_tried_again_but_not_for_ever(monkeypatch):
    assert call(Nodes(Node(TryAgainError(), TryAgainError(), 5), Node())) == 5
    monkeypatch.setattr(routing, "MAX_WAIT_SECONDS", 0.05)
    assert isinstance(call(Nodes(Node(*[TryAgainError()] * 100), Node())), TryAgainError)


@pytest.fixture
def make_script(tmp_path):
    """Return a function that makes a script of three keys."""
    (tmp_path / "script.lua").write_text(f"return 'of {tmp_path}'")
    return partial(Script, Node(), tmp_path / "script.lua", 3)


def test_a_script_that_the_target_cannot_run_names_its_log_alone(make_script):
    first, second = Node(ASK), Node(TryAgainError(), 5)
    command = make_script(derives_keys=True).command(KEY, "keys", "order", "argument")
    assert call(Nodes(first, second), *command) == 5
    assert second.sent[-2:] == [("ASKING",), (*command[:2], 1, KEY, "argument")]


def test_a_script_that_needs_all_of_its_keys_waits_at_the_target_until_they_are_there(make_script):
    first, second = Node(ASK), Node(*[TryAgainError()] * 20, 5)
    command = make_script().command(KEY, "keys", "order", "argument")
    assert call(Nodes(first, second), *command) == 5
    assert second.sent == [("ASKING",), command] * 21
    assert first.sent == [command]


def test_a_script_whose_keys_never_arrive_is_told_to_try_again(make_script, monkeypatch):
    monkeypatch.setattr(routing, "MAX_WAIT_SECONDS", 0.05)
    command = make_script().command(KEY, "keys", "order", "argument")
    nodes = Nodes(Node(ASK), Node(*[TryAgainError()] * 100))
    assert isinstance(call(nodes, *command), TryAgainError)


@pytest.mark.parametrize("reply", [ClusterDownError("down"), NOT_SENT], ids=["down", "not sent"])
def test_what_was_not_carried_out_goes_to_the_node_that_has_the_slot_by_now(reply):
    first, second = Node(reply), Node(5)
    assert call(Nodes(first, second, then=second)) == 5
    assert second.sent == [READ]


def test_what_may_have_been_carried_out_is_never_sent_again():
    second = Node(5)
    with pytest.raises(StoreUnavailable) as raised:
        call(Nodes(Node(LOST), second, then=second))
    assert raised.value.stored is None
    assert second.sent == []


def test_a_node_whose_reply_timed_out_gets_nothing_until_it_answers_a_ping():
    node = Node(UNANSWERED, 5)
    nodes = Nodes(node, Node())
    with pytest.raises(TimedOut) as raised:
        call(nodes)
    assert raised.value.stored is None, "it may have been carried out"
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="nothing was sent to node") as raised:
            call(nodes)
        assert raised.value.stored is False
    assert (node.sent, nodes.refreshes) == ([READ], 0), "nobody waits for the map either"
    node.control.answer()
    wait_until(lambda: nodes.silent.error_of(node) is None, "it answers")
    assert call(nodes) == 5


def test_of_a_silent_node_the_calls_of_others_hear_nothing():
    stuck, well = Node(UNANSWERED), Node(1, 2, 3)
    nodes = Owners(stuck, well)
    routed = Routed(nodes, lambda node: node)
    for reply in (1, 2, 3):
        error, found = routed.call_all(READ, OTHER_READ)
        assert (error.stored, found) == (None if reply == 1 else False, reply)
    assert stuck.sent == [READ]
    stuck.control.answer()


def test_what_is_for_a_silent_node_goes_to_the_one_that_has_its_slots_by_now():
    stuck, second = Node(UNANSWERED), Node(5)
    nodes = Nodes(stuck, second)
    with pytest.raises(TimedOut):
        call(nodes)
    nodes.owner = second  # as the map says, which is read meanwhile
    assert call(nodes) == 5
    stuck.control.answer()


@pytest.mark.parametrize(
    "reply",
    [Loading("it loads"), LOST, UNANSWERED, TimedOut("no answer", stored=False), NOT_SENT],
    ids=["loading", "lost", "timed out", "a read timed out", "not sent"],
)
def test_the_map_is_read_after_a_node_could_not_serve(reply):
    node = Node(reply)
    nodes = Nodes(node, Node())
    with contextlib.suppress(StoreUnavailable):
        call(nodes)
    assert nodes.soon + nodes.refreshes == 1
    assert node.sent == [READ]
    node.control.answer()


def test_a_slot_without_a_node_is_looked_for_once_more():
    second = Node(5)
    assert call(Nodes(None, second, then=second)) == 5
    with pytest.raises(StoreUnavailable, match="no node of the cluster has the slot"):
        call(Nodes(None, second))


def test_of_several_nodes_that_fail_each_call_gets_the_error_of_its_own():
    nodes = Owners(Node(NOT_SENT), Node(LOST))
    routed = Routed(nodes, lambda node: node)
    replies = routed.call_each(READ, OTHER_READ)
    assert [each.stored for each in replies] == [False, None]
    assert [str(each) for each in replies] == ["it is away", "the reply was lost"]


def test_an_error_of_all_calls_says_that_nobody_knows_if_nobody_knows_of_one():
    routed = Routed(Owners(Node(NOT_SENT), Node(LOST)), lambda node: node)
    with pytest.raises(StoreUnavailable) as raised:
        routed.call_all(READ, OTHER_READ)
    assert raised.value.stored is None


def test_what_one_node_does_not_answer_is_one_error():
    with pytest.raises(StoreUnavailable, match="it is away"):
        Routed(Nodes(Node(NOT_SENT, NOT_SENT), Node()), lambda node: node).call_each(READ, READ)


@pytest.mark.parametrize("owner", [None, Node(*[NOT_SENT] * 20)], ids=["unknown", "away"])
def test_the_map_is_read_once_for_all_commands(owner):
    nodes = Nodes(owner, Node())
    with pytest.raises(StoreUnavailable):
        Routed(nodes, lambda node: node).call_all(*[READ] * 20)
    assert nodes.refreshes == 1


def test_the_map_is_not_read_again_if_the_next_node_is_away_too():
    nodes = Nodes(Node(NOT_SENT), Node(), then=Node(NOT_SENT))
    with pytest.raises(StoreUnavailable):
        call(nodes)
    assert nodes.refreshes == 1


def test_a_call_from_a_signal_handler_in_a_call_is_refused_before_anything_is_sent():
    first, second = Node(5), Node(6)
    routed = Routed(Owners(first, second), lambda node: node)
    thread = one_call_per_thread.check()
    try:
        one_call_per_thread.enter(thread)
        with pytest.raises(ReentrantCall):
            routed.call_all(READ, OTHER_READ)
        with pytest.raises(ReentrantCall):
            routed.call_each(READ, OTHER_READ)
    finally:
        one_call_per_thread.leave(thread)
    assert first.sent + second.sent == []


def test_an_error_that_is_no_failure_of_a_node_is_raised():
    first = Node(5)
    first.call_all = Mock(side_effect=ReentrantCall())
    with pytest.raises(ReentrantCall):
        Routed(Owners(first, Node(6)), lambda node: node).call_all(READ, OTHER_READ)


@pytest.mark.parametrize("broken", [0, 1], ids=["in this thread", "in another one"])
def test_an_unexpected_error_at_one_node_is_unknown_and_no_matter_of_others(caplog, broken):
    nodes = [Node(5), Node(6)]
    nodes[broken].call_all = Mock(side_effect=ValueError("a bug"))
    by_key = dict(zip(("a", "b"), nodes, strict=True))
    cluster = Nodes(None, None)
    cluster.known_server_of = by_key.get
    replies = Routed(cluster, lambda node: node).call_all(("XLEN", "a"), ("XLEN", "b"))
    error = replies[broken]
    assert isinstance(error, StoreUnavailable)
    assert (error.stored, replies[1 - broken]) == (None, [5, 6][1 - broken])
    assert "a bug" in caplog.text
