"""The header traceparent of an append, and the member of an event: kept, or ignored."""

import json

import pytest

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACED, OTHER = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{'3' * 16}-00"
NAMES = {"event_category": "llm", "event_action": "stream"}
PATH = "/runs/1/events"


def stored(store) -> list[str | None]:
    return [each.traceparent for each in store.get_events(1)]


def test_one_event_has_that_of_its_request(http, fake_store):
    answer = http.post(PATH, json=NAMES, headers={"traceparent": TRACED})
    assert answer.json["traceparent"] == TRACED
    assert "traceparent" not in http.post(PATH, json=NAMES).json
    assert stored(fake_store) == [TRACED, None]


def test_an_event_of_an_array_keeps_its_own(http, fake_store):
    body = [NAMES, NAMES | {"traceparent": OTHER}]
    http.post(PATH, json=body, headers={"Traceparent": TRACED, "tracestate": "a=b"})
    http.post(PATH, json=body)
    assert stored(fake_store) == [TRACED, OTHER, None, OTHER]


def test_lines_have_that_of_their_request(http, fake_store):
    lines = [NAMES, {"event": {"category": "llm", "action": "x"}, "traceparent": OTHER}, NAMES]
    body = "\n".join(map(json.dumps, lines))
    http.post(PATH, data=body, content_type="application/x-ndjson", headers={"traceparent": TRACED})
    assert stored(fake_store) == [TRACED, OTHER, TRACED]


def test_a_request_to_the_producer_has_it(http, fake_store):
    http.post(PATH, json=NAMES)
    answer = http.post("/runs/1/requests", json={"action": "a"}, headers={"traceparent": TRACED})
    assert answer.json["traceparent"] == TRACED
    assert stored(fake_store) == [None, TRACED]


@pytest.mark.parametrize(
    "header",
    ["", "none", f"ff-{TRACE}-{PARENT}-01", f"{TRACED}-x", f"{TRACED}, {TRACED}", "x" * 7000, "é"],
)
def test_one_that_is_not_valid_is_ignored(http, fake_store, header):
    assert http.post(PATH, json=NAMES, headers={"traceparent": header}).status_code == 201
    assert http.post(PATH, json=NAMES | {"traceparent": header}).status_code == 201
    assert stored(fake_store) == [None, None]


def test_two_are_none(http, fake_store):
    http.post(PATH, json=NAMES, headers=[("traceparent", TRACED), ("traceparent", OTHER)])
    assert stored(fake_store) == [None]


@pytest.mark.parametrize("value", [5, True, [], {}])
def test_a_member_that_is_no_text_is_refused(http, value):
    answer = http.post(PATH, json=NAMES | {"traceparent": value})
    assert answer.status_code == 422
    assert [each["field"] for each in answer.json["errors"]] == ["traceparent"]


def test_pages_lines_and_streams_show_it(http):
    http.post(PATH, json=NAMES, headers={"traceparent": TRACED})
    http.post(PATH, json=NAMES | {"event_category": "lifecycle", "event_action": "completed"})
    first, last = http.get(PATH).json["events"]
    assert (first["traceparent"], "traceparent" in last) == (TRACED, False)
    lines = http.get(PATH, headers={"Accept": "application/x-ndjson"}).text.splitlines()
    assert json.loads(lines[0]) == first
    stream = http.get(f"{PATH}/stream").text
    assert json.dumps(first, separators=(",", ":")) in stream
    several = http.get("/events/stream?run=1", headers={"Accept": "application/x-ndjson"}).text
    assert f'"traceparent":"{TRACED}","cursor":"m1.' in several


def test_an_event_as_it_was_read_can_be_appended_again(http, fake_store):
    read = http.post(PATH, json=NAMES, headers={"traceparent": TRACED}).json
    assert http.post(PATH, json=read).json["traceparent"] == TRACED
