"""The backoff: pauses grow up to a bound, and differ. Turns: others go between parts of work."""

import os
from itertools import islice

import pytest

from app.protocol import repeats
from app.streaming import backoff as backoff_module
from app.streaming import batch_sender
from app.streaming import event as event_module
from app.streaming.backoff import TURN_BYTES, Turns, backoff, give_turn
from app.streaming.event_id import LAST, ZERO
from app.streaming.event_store import EventStore
from app.streaming.wire.frame import frames_from
from tests.clocks import replace_time


@pytest.mark.parametrize("module", [repeats, batch_sender], ids=lambda module: module.__name__)
def test_pauses_grow_up_to_a_bound_and_differ(module):
    initial, maximum = module.INITIAL_PAUSE_SECONDS, module.MAX_PAUSE_SECONDS
    several = [list(islice(backoff(initial, maximum), 12)) for _ in range(5)]
    assert len({pauses[0] for pauses in several}) > 1
    for pauses in several:
        assert initial / 2 <= pauses[0] <= initial
        assert all(maximum / 2 <= pause <= maximum for pause in pauses[-3:])


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the turns that others get, who have nothing to do."""
    turns: list[float] = []
    replace_time(monkeypatch, backoff_module, monotonic=lambda: 1.0, sleep=turns.append)
    return turns


def test_others_get_a_turn_whenever_enough_bytes_were_worked_on(turns):
    work = Turns()
    for _ in range(10):
        work.spend(TURN_BYTES // 4)
    assert len(turns) == 2
    work.spend(100 * TURN_BYTES)
    assert len(turns) == 3


@pytest.mark.parametrize(
    ("seconds", "turns"),
    [([0.0005], 1), ([0.02, 0.03, 0.0001], 3), ([0.09] * 9, 2), ([5.0], 1)],
    ids=["idle", "busy for a while", "busy for long", "one long turn"],
)
def test_others_get_more_turns_while_they_have_much_to_do(monkeypatch, seconds, turns):
    now, left = [1.0], list(seconds)

    def others(pause: float) -> None:
        now[0] += left.pop(0)

    replace_time(monkeypatch, backoff_module, monotonic=lambda: now[0], sleep=others)
    give_turn()
    assert len(seconds) - len(left) == turns


def test_a_forked_child_waits_for_no_thread_of_its_parent():
    with backoff_module._queue:
        child = os.fork()
        if child == 0:
            os._exit(int(backoff_module._queue.locked()))
        assert os.waitpid(child, 0)[1] == 0


def test_reading_large_events_gives_others_turns(turns, fake_store: EventStore):
    for _ in range(8):
        fake_store.add(1, "llm", "stream", "x" * 200_000)
    assert len(fake_store.page("1").events) == 8
    assert len(turns) >= 4
    del turns[:]
    [entry] = fake_store.entries("1", ZERO, LAST, 1)
    frames_from("1", [entry] * 8)
    assert len(turns) >= 4


def test_events_that_a_page_does_not_ask_for_are_not_parsed(fake_store, monkeypatch):
    fake_store.add(1, "llm", "stream", "x")
    fake_store.add(1, "lifecycle", "completed", "x")
    monkeypatch.setattr(event_module.orjson, "loads", None)
    assert fake_store.page("1", categories=["other"]).events == []
    assert fake_store.state(1).ended
