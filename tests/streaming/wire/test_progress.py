"""The progress of a filtered stream: when the client must be told how far it has come."""

import json

import pytest

from app.streaming.event_id import EventId
from app.streaming.log.position import Position
from app.streaming.wire.formats import EventStream, Filter, JsonLines
from app.streaming.wire.frame_batch import Encoded
from app.streaming.wire.progress import MAX_DROPPED, Progress, progress_frame


def at(number: int) -> Position:
    return Position(b"1", EventId(number, 0), number)


def sent(last_id: int | None = None, dropped: int = 0) -> Encoded:
    return Encoded(b"", 0, None if last_id is None else EventId(last_id, 0), dropped)


def test_a_new_stream_has_sent_no_id():
    assert Progress().last_id is None


def test_an_event_is_the_last_id():
    progress = Progress()
    assert not progress.add(sent(last_id=7), at(7))
    assert progress.last_id == at(7).id


def test_dropped_events_move_no_id_until_there_are_many():
    progress = Progress()
    progress.add(sent(last_id=7), at(7))
    assert not progress.add(sent(dropped=MAX_DROPPED - 1), at(1006))
    assert progress.last_id == at(7).id
    assert progress.add(sent(dropped=1), at(1007))
    assert progress.last_id == at(1007).id
    assert not progress.add(sent(dropped=1), at(1008))


def test_an_event_starts_the_count_anew():
    progress = Progress()
    progress.add(sent(dropped=MAX_DROPPED - 1), at(999))
    assert not progress.add(sent(last_id=1000, dropped=5), at(1005))
    assert not progress.add(sent(dropped=MAX_DROPPED - 6), at(2000))
    assert progress.add(sent(dropped=1), at(2001))


def test_many_dropped_events_after_an_event_of_the_same_batch_count_too():
    progress = Progress()
    assert progress.add(sent(last_id=1, dropped=MAX_DROPPED), at(1001))
    assert progress.last_id == at(1001).id


def test_a_notice_moves_nothing():
    progress = Progress()
    progress.add(sent(last_id=7), at(7))
    assert not progress.add(sent(), at(9))
    assert progress.last_id == at(7).id


def test_an_id_that_was_sent_starts_the_count_anew():
    progress = Progress()
    progress.add(sent(dropped=MAX_DROPPED - 1), at(999))
    progress.note_id(at(999).id)
    assert progress.last_id == at(999).id
    assert not progress.add(sent(dropped=1), at(1000))


@pytest.mark.parametrize("typed", [True, False])
def test_the_event_carries_the_id_that_it_tells(typed):
    frame = progress_frame("r", EventId(5, 1))
    head, _, body = EventStream(typed).frame(frame).partition(b"data: ")
    assert head == b"id: 5-1\n" + (b"event: gateway.progress\n" if typed else b"")
    document = json.loads(body)
    assert (document["data"], document["id"], document["sequence"]) == (
        {"cursor": "5-1"},
        None,
        None,
    )
    assert document["event"] == {"category": "gateway", "action": "progress"}


def test_the_event_is_one_json_line_and_passes_every_filter():
    frame = progress_frame("r", EventId(5, 1))
    assert json.loads(JsonLines().frame(frame))["data"] == {"cursor": "5-1"}
    assert Filter(frozenset({"tool"}), frozenset({"call"})).passes(frame)
