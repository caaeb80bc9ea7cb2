"""The answer of a run: where it begins, which chunks it has, and its stream.

A run may be a chat, with one answer after another. Each begins with `lifecycle.started`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.client import NO_CONTENT
from typing import Any, TypeVar

from flask import Response, request
from werkzeug.exceptions import Gone

from ...streaming.backoff import backoff
from ...streaming.errors import InvalidInput, StoreUnavailable
from ...streaming.event import LIFECYCLE, Event
from ...streaming.event_id import EventId
from ...streaming.event_store import EventStore
from ...streaming.follow.replay import Replay
from ...streaming.follow.start import Start
from ...streaming.wire.answer import AnswerEvents
from ...streaming.wire.dialects import Dialect
from ...streaming.wire.formats import Filter, StreamFormat
from ..gateway import gateway
from ..reading.stream import open_stream

# What is read of a log at once, to find and count.
PAGE_EVENTS = 1000

# So many requests of a worker read at once, so that Redis has connections for the others too.
MAX_READERS = 8

# How long a request waits for its turn, and for Redis.
PATIENCE_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0

_EVERYTHING = Filter()

_turns = threading.Semaphore(MAX_READERS)

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """The last answer of a run, as its log is now.

    `first_sequence` is that of its first event; None if it begins with the log. `ended_at` is
    when it has ended (seconds since 1970), None if it goes on.
    """

    run_id: str
    first_sequence: int | None
    ended_at: float | None
    store: EventStore

    @property
    def start(self) -> Start:
        """Where a stream of the whole answer starts."""
        return Start() if self.first_sequence is None else Start(sequence=self.first_sequence)

    def chunks(self, wire: AnswerEvents) -> Iterator[Event]:
        """Yield the events that are sent as chunks; raises what `patiently` does."""
        after: EventId | None = None
        from_sequence = self.first_sequence
        while True:
            read = partial(self.store.page, after=after, from_sequence=from_sequence)
            page = patiently(partial(read, self.run_id, limit=PAGE_EVENTS))
            for event in page.events:
                if wire.is_chunk(event):
                    yield event
                if event.terminal:  # the next answer may have begun meanwhile
                    return
            if page.next is None:
                return
            after, from_sequence = page.next, None


def find_answer(run_id: str) -> Answer | None:
    """Return the last answer of a run, None if the run has no log.

    Raises Gone if its beginning is missing, NotALog, StoreUnavailable and ArchiveUnavailable.
    """
    return patiently(lambda: _find_answer(run_id))


def patiently(read: Callable[[], T]) -> T:
    """Read a log, again and again while Redis cannot serve, but not longer than PATIENCE_SECONDS.

    After a restart all clients come back together, and most of them give up at an error.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    pauses = backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
    while True:
        if not _turns.acquire(timeout=max(0.0, until - time.monotonic())):
            raise StoreUnavailable("too many requests read answers now", stored=False)
        try:
            return read()
        except StoreUnavailable:
            if time.monotonic() > until or gateway().streams.draining:
                raise
        finally:
            _turns.release()
        time.sleep(next(pauses))


def _find_answer(run_id: str) -> Answer | None:
    store = gateway().store
    state = store.state(run_id)
    if not state.exists:
        return None
    ended_at = state.end_id.ms / 1000 if state.ended and state.end_id else None
    before: EventId | None = None
    while True:
        page = store.page(
            run_id,
            before=before,
            descending=True,
            limit=PAGE_EVENTS,
            categories=[LIFECYCLE],
            actions=["started"],
        )
        for event in page.events:
            if event.action == "started":
                if state.end_id and EventId.parse(str(event.id)) > state.end_id:
                    ended_at = None  # it has begun since the state was read
                return Answer(run_id, event.sequence, ended_at, store)
        if page.next is None:
            break
        before = page.next
    _ = state.beginning  # raises ArchiveUnavailable
    if state.first_sequence not in (None, 1):
        raise Gone(f"the beginning of the answer of the run {run_id} is not retained")
    return Answer(run_id, None, ended_at, store)


def event_of(number: int, answer: Answer, wire: AnswerEvents, field: str) -> tuple[Start, int]:
    """Return where a stream starts with a chunk of an answer, and how many chunks there are.

    Chunks count from 0. A negative number counts from the end, but not beyond the beginning.
    Raises InvalidInput, which names `field`, if there was never such a chunk.
    """
    # An answer may be larger than the memory, so its events are not kept.
    sequences, is_over = [], False
    for event in answer.chunks(wire):
        sequences.append(event.sequence)
        is_over = event.terminal
    count = len(sequences)
    index = max(0, count + number) if number < 0 else number
    if index == 0:
        return answer.start, count
    if index < count:
        sequence = sequences[index]
    elif index == count and not is_over:
        sequence = (sequences[-1] or 0) + 1
    else:
        raise InvalidInput(field, f"the answer has {count} chunks")
    if sequence is None:
        raise InvalidInput(field, "the answer has events without a sequence")
    return Start(sequence=sequence), count


def last_event_id() -> str | None:
    """Return the cursor with which a client comes back, None if it brings none."""
    values = request.headers.get("Last-Event-ID", "").split(",")
    return next((value for value in map(str.strip, reversed(values)) if value), None)


def open_answer(
    run_id: str, start: Start, wire: AnswerEvents, headers: dict[str, Any] | None = None
) -> Response:
    """Answer with the stream of an answer. Raises what `open_stream` does."""
    replay = Replay(run_id, start, gateway().streams.services)
    response = open_stream(replay, StreamFormat(_EVERYTHING, wire), start)
    if response.status_code == NO_CONTENT:
        run = gateway().store.run(run_id)
        response = _end(run.last_event if run else None, wire)
    response.headers.update(headers or {})
    return response


def _end(last: Event | None, wire: AnswerEvents) -> Response:
    """Tell the end of an answer once more.

    A client that was cut off after the terminal event, but before the end of the body, does not
    know that it has had all. It takes an answer without a body for an error.
    """
    body = wire.end(last) if last is not None and last.terminal else b""
    return Response(body, content_type=wire.content_type, headers={"Cache-Control": "no-store"})


def resume(
    run_id: str, cursor: str | None, dialect: Dialect, field: str = "Last-Event-ID"
) -> Response:
    """Answer with the stream of an answer, after an event id or from its beginning.

    `field` is what brought the cursor. The cursor `-1` is the beginning. Without a log, the stream
    waits for the first event. Raises InvalidInput and what `find_answer` and `open_stream` raise.
    """
    wire = AnswerEvents(dialect=dialect)
    if cursor in (None, "-1"):
        answer = find_answer(run_id)
        return open_answer(run_id, Start() if answer is None else answer.start, wire)
    event_id = EventId.parse(str(cursor), field)
    last = patiently(partial(_event_at, run_id, event_id))
    if last is not None and last.terminal:  # what follows is the next answer, if anything
        return _end(last, wire)
    return open_answer(run_id, Start(id=event_id), wire)


def _event_at(run_id: str, event_id: EventId) -> Event | None:
    """Return the event that has an id, None if there is none."""
    events = gateway().store.page(run_id, after=event_id.before(), limit=1).events
    return events[0] if events and events[0].id == str(event_id) else None
