"""What a node tells of changed keys, and how the wait for it ends."""

import math
import threading

import pytest

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from app.streaming.feeds import invalidations
from app.streaming.feeds.invalidations import Invalidations
from app.streaming.log.redis_keys import log_key
from app.streaming.redis.connection import exchange
from tests.servers import RedisServer, wait_until

FOR_EVER = 3600.0


class Told:
    """The connections to a server, and the log of one run."""

    def __init__(self, store: EventStore, run_id: str, over: Invalidations | None = None):
        self.store, self.run_id = store, run_id
        self.key = log_key(run_id).encode()
        self.invalidations = over or Invalidations(store.engine.server_of(log_key(run_id)))

    def read(self) -> None:
        exchange(self.invalidations.link, ("XREAD", "STREAMS", self.key, "0-0"))

    def wait_for_ever(self) -> None:
        """Wait for what never comes."""
        while True:
            self.invalidations.wait(FOR_EVER)

    def append(self) -> None:
        self.store.add(self.run_id, "llm", "stream")

    def wait(self) -> list[bytes] | None:
        """Wait until something is told; return what."""
        told: list[list[bytes] | None] = []

        def is_told() -> bool:
            told.append(self.invalidations.wait(1.0))
            return told[-1] != []

        wait_until(is_told, "something is told")
        return told[-1]


@pytest.fixture
def told(redis_server, run_id):
    told = Told(EventStore(redis_server.url), run_id)
    yield told
    told.invalidations.close()


@pytest.fixture
def own_server(tmp_path):
    server = RedisServer(tmp_path).start()
    yield server
    server.stop()


def test_a_key_that_was_read_is_told_once_when_it_changes(told):
    told.read()
    told.append()
    assert told.wait() == [told.key]
    told.append()  # it was not read again
    other = Told(told.store, f"{told.run_id}-other", told.invalidations)
    other.read()
    other.append()
    assert other.wait() == [other.key]


def test_all_keys_are_told_when_the_server_is_emptied(own_server, run_id):
    store = EventStore(own_server.url)
    told = Told(store, run_id)
    told.read()
    store.engine.control.call("FLUSHALL")
    assert told.wait() is None
    told.invalidations.close()


def test_a_wait_is_interrupted(told):
    returned: list[list[bytes] | None] = []

    def wait() -> None:
        returned.append(told.invalidations.wait(FOR_EVER))

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: told.invalidations._is_waiting, "it waits")
    told.invalidations.interrupt()
    waiting.join()
    assert returned == [[]]


def test_a_wait_that_is_interrupted_before_it_begins_does_not_begin(told, monkeypatch):
    received: list[float] = []
    receive = told.invalidations._receive
    monkeypatch.setattr(
        told.invalidations, "_receive", lambda seconds: received.append(seconds) or receive(seconds)
    )
    told.invalidations.interrupt()
    assert told.invalidations.wait(FOR_EVER) == []
    assert received == [0.0]


def test_a_server_that_says_nothing_is_pinged_and_then_lost(own_server, run_id, monkeypatch):
    monkeypatch.setattr(invalidations, "SILENCE_SECONDS", 0.05)
    told = Told(EventStore(own_server.url), run_id)
    own_server.pause()
    with pytest.raises(StoreUnavailable):
        told.wait_for_ever()
    told.invalidations.close()


def test_a_refusal_of_the_ping_is_told_with_its_text(own_server, run_id, monkeypatch):
    with own_server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "ada", "on", "nopass", "~*", "&*", "+@all", "-ping"
        )
    told = Told(EventStore(own_server.url.replace("//", "//ada:any@")), run_id)
    monkeypatch.setattr(invalidations, "SILENCE_SECONDS", 60.0)  # no answer would take so long
    monkeypatch.setattr(told.invalidations, "_word", -math.inf)  # it is pinged at once
    with pytest.raises(StoreUnavailable, match=r"(?i)NOPERM .*ping"):
        told.wait_for_ever()
    told.invalidations.close()


def test_a_word_that_came_while_nobody_waited_counts(told, monkeypatch):
    told.read()
    told.append()
    monkeypatch.setattr(told.invalidations, "_word", 0.0)  # very long ago
    monkeypatch.setattr(told.invalidations, "_is_pinged", True)
    wait_until(lambda: told.invalidations._telling.can_read(), "the word has come")
    assert told.invalidations.wait(FOR_EVER) == [told.key]


def test_a_connection_that_has_ended_says_so(own_server, run_id):
    told = Told(EventStore(own_server.url), run_id)
    own_server.stop()
    with pytest.raises(StoreUnavailable):
        told.wait_for_ever()
    told.invalidations.close()


def test_it_is_noticed_that_the_connection_to_read_with_has_ended(told):
    [number] = exchange(told.invalidations.link, ("CLIENT", "ID"))
    told.store.engine.control.call("CLIENT", "KILL", "ID", number)
    with pytest.raises(StoreUnavailable, match="the connection to read with has ended"):
        told.wait_for_ever()


def test_a_closed_connection_is_not_interrupted(told):
    told.invalidations.close()
    told.invalidations.interrupt()
    with pytest.raises(StoreUnavailable):
        told.invalidations.wait(FOR_EVER)
