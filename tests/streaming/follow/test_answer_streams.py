"""The stream of an answer that a server iterates over: it ends with the answer, or breaks off."""

import pytest

from app.streaming.event_id import EventId
from app.streaming.feeds.reader_pool import ReaderPool
from app.streaming.feeds.readers import make_readers
from app.streaming.follow.start import Start
from app.streaming.follow.subscriber import Subscriber
from app.streaming.wire.answer import AnswerEvents
from app.streaming.wire.dialects import AI_SDK
from tests.streaming.follow.streams import subscribe

# An answer's last two events, and how the next answer begins, in one append.
TWO_ANSWERS = [
    {"event_category": "sse", "event_action": "message", "data": {"type": "last"}},
    {"event_category": "lifecycle", "event_action": "completed", "data": {"type": "finish"}},
    {"event_category": "lifecycle", "event_action": "started", "data": {"type": "start"}},
    {"event_category": "sse", "event_action": "message", "data": {"type": "other"}},
]
ANSWER = AnswerEvents(dialect=AI_SDK)
DONE = b"data: [DONE]\n\n"


@pytest.fixture
def readers(store) -> ReaderPool:
    return make_readers(store)


def follow(store, readers, run_id, start=Start(sequence=1), wire=ANSWER) -> Subscriber:  # noqa: B008
    return subscribe(store, readers, run_id, start, wire)


def test_it_ends_with_the_answer(store, readers, run_id):
    store.add_many(run_id, TWO_ANSWERS)
    subscriber = follow(store, readers, run_id)
    body = b"".join(subscriber.chunks())
    assert body.endswith(b'data: {"type":"finish"}\n\n' + DONE)
    assert b"other" not in body
    assert (subscriber.events, subscriber.reason) == (2, "ended")
    subscriber.close()


def test_the_next_answer_ends_where_the_log_does(store, readers, run_id):
    store.add_many(run_id, TWO_ANSWERS)
    store.add(run_id, "lifecycle", "completed")
    subscriber = follow(store, readers, run_id, Start(sequence=3))
    body = b"".join(subscriber.chunks())
    assert body.count(DONE) == 1
    assert body.index(b"start") < body.index(b"other") < body.index(b"finish") < body.index(DONE)
    subscriber.close()


def test_a_gap_is_the_end(store, readers, run_id, redis_client):
    first = store.add(run_id, "sse", "message", {"type": "a"})
    store.add(run_id, "sse", "message", {"type": "b"})
    store.add(run_id, "sse", "message", {"type": "c"})
    redis_client.xtrim(f"run:{run_id}:events", maxlen=1, approximate=False)
    subscriber = follow(store, readers, run_id, Start(id=EventId.parse(first)))
    body = b"".join(subscriber.chunks())
    assert b"are missing" in body
    assert body.endswith(DONE)
    assert b'"c"' not in body
    subscriber.close()


@pytest.mark.parametrize("reason", ["draining", "expired", "revoked"])
def test_it_breaks_off_if_it_ends_too_early(store, readers, run_id, reason):
    subscriber = follow(store, readers, run_id)
    chunks = subscriber.chunks()
    assert next(chunks).startswith(b"retry: ")
    subscriber.end(reason)
    with pytest.raises(ConnectionResetError):
        list(chunks)
    subscriber.close()


def test_but_not_if_its_client_asks_again_after_a_proper_end(store, readers, run_id):
    subscriber = follow(store, readers, run_id, wire=AnswerEvents(dialect=AI_SDK, cuts=False))
    chunks = subscriber.chunks()
    next(chunks)
    subscriber.end("draining")
    assert b"retry: " in b"".join(chunks)
    subscriber.close()
