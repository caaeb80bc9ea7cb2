"""Notes that the index cannot take at once: in order, each once, and no append waits long."""

import os
import threading

import pytest

from app.streaming.errors import NotALog, StoreUnavailable
from app.streaming.runs import late_notes
from app.streaming.runs.late_notes import LateNotes, Notes
from app.streaming.runs.run_index import Noted
from tests.servers import wait_until


class Index:
    """Takes notes while it is `open`; `asked` counts the attempts."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.asked = 0
        self.open = threading.Event()
        self.begun = threading.Event()
        self.answers = threading.Event()
        self.answers.set()

    def write(self, notes: Notes) -> None:
        self.asked += 1
        self.begun.set()
        self.answers.wait()
        if not self.open.is_set():
            raise StoreUnavailable("away")
        self.taken += [each.run_id for each in notes.noted]


@pytest.fixture
def index() -> Index:
    return Index()


def notes_of(name: str) -> Notes:
    return Notes([Noted(name, "active")], [])


def test_what_is_written_at_once_is_there_afterwards(index):
    index.open.set()
    late = LateNotes(index.write)
    for name in "abc":
        late.write(notes_of(name))
    assert index.taken == ["a", "b", "c"]


def test_notes_wait_in_order_while_the_index_is_away(index):
    late = LateNotes(index.write)
    for name in "abc":
        late.write(notes_of(name))
    assert late.are_waiting
    index.open.set()
    wait_until(lambda: not late.are_waiting, "they are written")
    assert index.taken == ["a", "b", "c"]


def test_only_the_first_append_waits_for_an_index_that_is_silent(index, monkeypatch):
    """It hangs: the others do not wait at all."""
    waits = []
    wait = Notes.wait
    monkeypatch.setattr(Notes, "wait", lambda notes: waits.append(notes) or wait(notes))
    index.answers.clear()
    index.open.set()
    late, first = LateNotes(index.write), notes_of("a")
    late.write(first)
    for name in "bc":
        late.write(notes_of(name))
    assert (waits, index.taken) == ([first], [])
    index.answers.set()
    wait_until(lambda: not late.are_waiting, "they are written")
    assert index.taken == ["a", "b", "c"]
    late.write(notes_of("d"))
    assert index.taken[3:] == ["d"]


def test_too_many_notes_push_out_the_oldest_that_nobody_writes(index, monkeypatch):
    monkeypatch.setattr(late_notes, "MAX_WAITING", 2)
    index.answers.clear()
    index.open.set()
    late = LateNotes(index.write)
    late.add(notes_of("a"))
    assert index.begun.wait(20)
    for name in "bcd":
        late.add(notes_of(name))
    index.answers.set()
    wait_until(lambda: not late.are_waiting, "they are written")
    assert index.taken == ["a", "c", "d"]


def test_notes_that_can_never_be_written_hold_up_no_others(index):
    taken = []

    def write(notes: Notes) -> None:
        [noted] = notes.noted
        if noted.run_id in "ab":
            raise NotALog("no index") if noted.run_id == "a" else KeyError
        taken.append(noted.run_id)

    late = LateNotes(write)
    for name in "abc":
        late.write(notes_of(name))
    assert taken == ["c"]


def test_a_forked_child_writes_its_own_notes_only(index):
    late = LateNotes(index.write)
    late.add(notes_of("parents"))
    assert index.begun.wait(20)
    with late._lock:  # as another thread may hold it
        if (child := os.fork()) == 0:
            index.open.set()
            late.write(notes_of("childs"))
            os._exit(0 if index.taken == ["childs"] else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    index.open.set()
    wait_until(lambda: not late.are_waiting, "the parent writes")
    assert index.taken == ["parents"]


def test_notes_are_written_though_no_thread_can_start(index, monkeypatch):
    """At the end of a program."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    index.open.set()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    LateNotes(index.write).write(notes_of("a"))
    assert index.taken == ["a"]
