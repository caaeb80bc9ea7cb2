"""Server-Sent Events in pieces: what is stored of a body does not depend on where it is cut."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.capacity import Capacity
from app.routes.admission import Admission, Reservation
from app.routes.ingest.ingest import Ingest, append_alone, append_together
from app.routes.ingest.sse_reader import SseReader
from app.streaming.errors import RunEnded, StoreUnavailable
from app.streaming.event_id import EventId
from app.streaming.new_event import Append, Appended, NewEvent
from app.streaming.wire.dialects import AI_SDK
from tests.routes.ingest.test_sse_parser import pieces_of

PARTS = st.sampled_from(
    [
        *(b'data: {"type": "%b"}\n\n' % kind for kind in (b"start", b"finish", b"error", b"abort")),
        *(b"data: x\n\n", b"data: [DONE]\n\n", b": ping\r\n\r\n", b"event: \xc3\xa9\rdata: 1\r\r"),
        *(
            b"data: \xff\n\n",
            b"event: finish\ndata: 1\ndata: 2\n\n",
            b"data: " + b"y" * 200 + b"\n",
        ),
        *(b"\n", b"\r", b"data", b'data: {"type": "finish"}\n', b"\xef\xbb\xbf", b"\xc3"),
    ]
)
BODIES = st.lists(PARTS, max_size=12).map(b"".join)


class Log:
    """A log of one run that takes appends as the event store does."""

    def __init__(self) -> None:
        self.events: list[NewEvent] = []

    def append_each(self, appends: list[Append]) -> list[Any]:
        return [self._append(each.new_events) for each in appends]

    def _append(self, new_events: list[NewEvent]) -> Any:
        events, first = list(self.events), len(self.events) + 1
        for each in new_events:
            if events and events[-1].terminal and each.action != "started":
                return RunEnded("it has ended")
            events.append(each)
        self.events = events
        return Appended(EventId(1, first), first, len(new_events), False)


def new_ingest() -> Ingest:
    reservation = Reservation(Admission(10_000, Capacity(1, 1, 1, 1)))
    return Ingest("1", None, reservation, SseReader(AI_SDK, 120), 10_000)


def outcome(pieces: list[bytes]) -> tuple:
    """Return what is stored of a body, and what its producer is told."""
    ingest, log = new_ingest(), Log()
    append_alone(ingest, pieces, log)
    assert ingest.over
    told = ingest.error_members() if ingest.error is not None else ingest.result()
    names = [(event.category, event.action, event.data_json) for event in log.events]
    return names, type(ingest.error), {**told, "last_id": None}


@given(BODIES, st.lists(st.integers(0, 500), max_size=5))
def test_a_body_gives_the_same_wherever_it_is_cut(body, cuts):
    assert outcome(pieces_of(body, *cuts)) == outcome([body])


@given(BODIES)
def test_a_body_gives_the_same_byte_by_byte(body):
    assert outcome([bytes([each]) for each in body]) == outcome([body])


@given(BODIES, st.lists(st.integers(0, 500), max_size=20))
def test_what_has_arrived_never_needs_more_room(body, cuts):
    """A worker may have no more: then only the next bytes are refused."""
    ingest, log = new_ingest(), Log()
    for piece in pieces_of(body, *cuts):
        ingest.receive(piece)
        while ingest.has_lines:
            before = ingest.size
            append_together([ingest], log)
            assert ingest.size <= before
        if ingest.closed:
            break


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b'data: {"type": "finish"}\n\n: ping\n\n', 1),
        (b": ping\nevent: a\ndata: 1\n", 2),
        (b": ping\n\n", 3),
    ],
)
def test_the_first_line_that_was_not_stored_is_known_after_a_failure_of_redis(body, line):
    """The loop fails all requests that are due, and then attends to them once more."""
    ingest = new_ingest()
    ingest.receive(body)
    assert ingest.next_append() is None
    ingest.fail(StoreUnavailable("Redis does not answer"))
    assert ingest.next_append() is None
    assert ingest.over
    assert ingest.error_members()["line"] == line
