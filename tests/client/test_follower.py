"""Following: resumption, the end of a run, outages, and what is refused for good."""

import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from app.client import Client, follower
from app.streaming.errors import InvalidInput, Refused
from tests.client.fake_gateway import FakeGateway, Request, answer, stream

OVER = answer(204)


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """The pauses that a follower made, which take no time."""
    pauses: list[float] = []
    monkeypatch.setattr(follower, "time", SimpleNamespace(sleep=pauses.append))
    return pauses


def event(number: int | None, name: str = "llm.stream", position: int | None = None) -> str:
    """A frame; a control event has no number, and perhaps a position."""
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
    """What a follower of the script yields, in short, and what it asked."""
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


def test_events_have_what_those_of_the_store_have():
    with FakeGateway([stream(event(7)), OVER]) as gateway:
        [followed] = Client(gateway.url).follow(1)
    assert (followed.id, followed.run_id, followed.sequence) == ("7-0", "1", 7)
    assert followed.event == {"category": "llm", "action": "stream"}
    assert (followed.data, followed.source) == ({"n": 7}, None)
    assert followed.timestamp == "2025-01-01T12:00:00.000Z"


@pytest.mark.parametrize("clean", [True, False])
def test_a_stream_that_ends_before_the_run_is_resumed_from_its_last_id(pauses, clean):
    blocks = "retry: 1500", event(1), event(2), event(3)
    # What is broken off is so within the third event.
    first = stream(*blocks[:-1]) if clean else stream(*blocks, clean=False)[:-4]
    script = [first, stream(caught_up(5), clean=clean), stream(event(6)), OVER]
    events, requests = followed(script)
    assert events == ["1-0", "2-0", "caught_up", "6-0"]
    assert cursors(requests) == ["earliest", "2-0", "5-0", "6-0"]
    assert pauses == [1.5, follower.RECONNECT_SECONDS, follower.RECONNECT_SECONDS]


def test_outages_are_waited_through_however_long(pauses):
    script = [None, answer(503, retry_after="9"), answer(500), answer(429)] + [None] * 20
    events, requests = followed([*script, stream(event(1)), None, OVER])
    assert events == ["1-0"]
    assert len(requests) == len(script) + 3
    assert 9 < pauses[1] < 10
    assert pauses[-1] < 0.2, "after a stream, an outage is a new one"


def test_a_run_that_is_over_has_no_more_events():
    events, requests = followed([OVER], "7-0")
    assert (events, cursors(requests)) == ([], ["7-0"])


def test_an_end_in_the_middle_of_the_history_is_none(pauses):
    """A gateway that stops ends its streams, and the run may have been reopened since."""
    ended = stream(event(1, "lifecycle.completed"))
    reopened = stream(event(2, "lifecycle.started"), caught_up(2), event(3, "lifecycle.failed"))
    events, requests = followed([ended, reopened])
    assert events == ["1-0", "2-0", "caught_up", "3-0"]
    assert cursors(requests) == ["earliest", "1-0"]
    assert pauses == [0.0]


def test_behind_a_filter_only_the_gateway_knows_whether_the_run_is_over(pauses):
    ended = stream(caught_up(1), event(2, "lifecycle.completed"))
    events, requests = followed([ended, stream(event(4)), OVER], categories=["llm"], actions=["x"])
    assert events == ["caught_up", "2-0", "4-0"]
    assert all(request.query == {"category": ["llm"], "action": ["x"]} for request in requests)
    assert pauses[0] == 0.0


def test_a_stream_that_broke_right_after_the_end_is_asked_for_again():
    script = [stream(caught_up(1), event(2, "lifecycle.completed"), clean=False), OVER]
    events, requests = followed(script)
    assert events == ["caught_up", "2-0"]
    assert cursors(requests) == ["earliest", "2-0"]


def test_a_tail_is_asked_for_until_there_is_a_cursor():
    events, requests = followed([None, stream(caught_up(4), clean=False), OVER], tail=0)
    assert events == ["caught_up"]
    assert cursors(requests) == [None, None, "4-0"]
    assert [request.query.get("tail") for request in requests] == [["0"], ["0"], None]


def test_control_events_without_an_id_leave_the_cursor(pauses):
    script = [stream(event(1), event(None, "gateway.gap"), clean=False), OVER]
    events, requests = followed(script)
    assert events == ["1-0", "gap"]
    assert cursors(requests) == ["earliest", "1-0"]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (answer(400, {"errors": [{"field": "tail", "detail": "bad"}]}), InvalidInput),
        (answer(404, {"detail": "no"}), Refused),
        (answer(200, b"<html>"), Refused),
        (stream("data: no JSON"), Refused),
        (stream("data: []"), Refused),
    ],
)
def test_what_is_refused_for_good_is_raised(given, kind):
    with pytest.raises(kind):
        followed([given])


def test_a_follower_that_is_left_hangs_up():
    with FakeGateway([stream(event(1), event(2))]) as gateway, Client(gateway.url) as client:
        events: Iterator = client.follow(1)
        assert next(events).id == "1-0"
        events.close()
        assert list(events) == []
    assert len(gateway.requests) == 1
