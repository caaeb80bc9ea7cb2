"""Following a run: resumption, the end of the run, outages, and final errors."""

import json
from collections.abc import Iterator

import pytest

from app.client import Client
from app.protocol.following import RECONNECT_SECONDS
from app.streaming.errors import InvalidInput, Refused
from tests.both_clients import replace_pauses
from tests.client.fake_gateway import FakeGateway, Request, response, stream

OVER = response(204)


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """Record the pauses of a follower, which take no time."""
    pauses: list[float] = []
    replace_pauses(monkeypatch, pauses.append)
    return pauses


def event(number: int | None, name: str = "llm.stream", position: int | None = None) -> str:
    """Return a frame. A control event has no number, and may have a position."""
    category, action = name.split(".")
    document = {
        "id": f"{number}-0" if number else None, "run_id": "1", "sequence": number,
        "timestamp": "2025-01-01T12:00:00.000Z", "data": {"n": number}, "source": None,
        "event": {"category": category, "action": action},
    }  # fmt: skip
    place = number or position
    place_line = f"id: {place}-0\n" if place else ""
    return f"{place_line}event: {name}\ndata: {json.dumps(document)}"


def caught_up(position: int) -> str:
    return event(None, "gateway.caught_up", position)


def followed(script: list[bytes | None], *arguments, **options) -> tuple[list, list[Request]]:
    """Return the ids (or actions) that a follower of the script yields, and its requests."""
    with FakeGateway(script) as gateway, Client(gateway.url) as client:
        events = [each.id or each.action for each in client.follow(1, *arguments, **options)]
    return events, gateway.requests


def cursors(requests: list[Request]) -> list[str | None]:
    return [request.headers.get("last-event-id") for request in requests]


def test_a_run_is_followed_to_its_end():
    script = [stream("retry: 1\n: open", event(1), caught_up(1), event(2, "lifecycle.failed"))]
    events, requests = followed(script)
    assert events == ["1-0", "caught_up", "2-0"]
    assert cursors(requests) == ["earliest"]
    assert requests[0].headers["accept"] == "text/event-stream"


def test_events_are_those_of_the_store():
    with FakeGateway([stream(event(7)), OVER]) as gateway:
        [followed] = Client(gateway.url).follow(1)
    assert (followed.id, followed.run_id, followed.sequence) == ("7-0", "1", 7)
    assert followed.event == {"category": "llm", "action": "stream"}
    assert (followed.data, followed.source) == ({"n": 7}, None)
    assert followed.timestamp == "2025-01-01T12:00:00.000Z"


@pytest.mark.parametrize("complete", [True, False])
def test_a_stream_that_ends_before_the_run_is_resumed_from_its_last_id(pauses, complete):
    blocks = "retry: 1500", event(1), event(2), event(3)
    # The incomplete stream breaks within the third event.
    first = stream(*blocks[:-1]) if complete else stream(*blocks, complete=False)[:-4]
    script = [first, stream(caught_up(5), complete=complete), stream(event(6)), OVER]
    events, requests = followed(script)
    assert events == ["1-0", "2-0", "caught_up", "6-0"]
    assert cursors(requests) == ["earliest", "2-0", "5-0", "6-0"]
    assert pauses == [1.5, RECONNECT_SECONDS, RECONNECT_SECONDS]


def test_a_follower_waits_through_an_outage_of_any_length(pauses):
    script = [None, response(503, retry_after="9"), response(500), response(429)] + [None] * 20
    events, requests = followed([*script, stream(event(1)), None, OVER])
    assert events == ["1-0"]
    assert len(requests) == len(script) + 3
    assert 9 < pauses[1] < 10
    assert pauses[-1] < 0.2, "after a stream, an outage is a new one"


def test_a_204_ends_the_iteration():
    events, requests = followed([OVER], "7-0")
    assert (events, cursors(requests)) == ([], ["7-0"])


def test_a_terminal_event_in_the_middle_of_the_history_does_not_end_the_iteration(pauses):
    """A gateway that stops ends its streams, and the run may have been reopened since."""
    ended = stream(event(1, "lifecycle.completed"))
    reopened = stream(event(2, "lifecycle.started"), caught_up(2), event(3, "lifecycle.failed"))
    events, requests = followed([ended, reopened])
    assert events == ["1-0", "2-0", "caught_up", "3-0"]
    assert cursors(requests) == ["earliest", "1-0"]
    assert pauses == [0.0]


def test_with_a_filter_the_gateway_decides_whether_the_run_has_ended(pauses):
    ended = stream(caught_up(1), event(2, "lifecycle.completed"))
    events, requests = followed([ended, stream(event(4)), OVER], categories=["llm"], actions=["x"])
    assert events == ["caught_up", "2-0", "4-0"]
    assert all(request.query == {"category": ["llm"], "action": ["x"]} for request in requests)
    assert pauses[0] == 0.0


def test_a_stream_that_breaks_after_the_terminal_event_is_resumed():
    script = [stream(caught_up(1), event(2, "lifecycle.completed"), complete=False), OVER]
    events, requests = followed(script)
    assert events == ["caught_up", "2-0"]
    assert cursors(requests) == ["earliest", "2-0"]


def test_the_tail_is_sent_until_there_is_a_cursor():
    events, requests = followed([None, stream(caught_up(4), complete=False), OVER], tail=0)
    assert events == ["caught_up"]
    assert cursors(requests) == [None, None, "4-0"]
    assert [request.query.get("tail") for request in requests] == [["0"], ["0"], None]


def test_the_sequence_is_sent_until_there_is_a_cursor():
    events, requests = followed([None, stream(event(4), complete=False), OVER], from_sequence=4)
    assert events == ["4-0"]
    assert cursors(requests) == [None, None, "4-0"]
    assert [request.query.get("from_sequence") for request in requests] == [["4"], ["4"], None]


def test_a_stream_has_one_start():
    with Client("http://127.0.0.1:9") as client, pytest.raises(InvalidInput) as failed:
        client.follow(1, tail=1, from_sequence=1)
    assert failed.value.field == "from_sequence"


def test_control_events_without_an_id_do_not_move_the_cursor(pauses):
    script = [stream(event(1), event(None, "gateway.gap"), complete=False), OVER]
    events, requests = followed(script)
    assert events == ["1-0", "gap"]
    assert cursors(requests) == ["earliest", "1-0"]


def test_progress_moves_the_cursor_and_is_not_shown(pauses):
    """A filter has dropped the events 2 to 900."""
    blocks = [event(1), event(None, "gateway.progress", 900), event(901)]
    progress = stream(event(None, "gateway.progress", 2000), complete=False)
    script = [stream(*blocks[:2], complete=False), progress, stream(*blocks[2:]), OVER]
    events, requests = followed(script, categories=["llm"])
    assert events == ["1-0", "901-0"]
    assert cursors(requests) == ["earliest", "900-0", "2000-0", "901-0"]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (response(400, {"errors": [{"field": "tail", "detail": "bad"}]}), InvalidInput),
        (response(404, {"detail": "no"}), Refused),
        (response(200, b"<html>"), Refused),
        (stream("data: no JSON"), Refused),
        (stream("data: []"), Refused),
    ],
)
def test_a_final_error_is_raised(given, kind):
    with pytest.raises(kind):
        followed([given])


def test_closing_the_iterator_closes_the_connection():
    with FakeGateway([stream(event(1), event(2))]) as gateway, Client(gateway.url) as client:
        events: Iterator = client.follow(1)
        assert next(events).id == "1-0"
        events.close()
        assert list(events) == []
    assert len(gateway.requests) == 1
