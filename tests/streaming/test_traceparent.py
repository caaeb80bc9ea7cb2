"""The traceparent of an event: which are valid, and that it is kept with the event."""

import pytest

from app.streaming.errors import InvalidEvent
from app.streaming.event import MAX_TRACEPARENT_LENGTH, parse_traceparent
from app.streaming.log.redis_keys import redis_keys
from app.streaming.new_event import NewEvent
from app.streaming.wire.frame import Frame

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACED = f"00-{TRACE}-{PARENT}-01"
OTHER = f"00-{TRACE}-{'3' * 16}-00"


@pytest.mark.parametrize(
    ("header", "stored"),
    [
        (TRACED, TRACED),
        (f"00-{TRACE}-{PARENT}-00", f"00-{TRACE}-{PARENT}-00"),
        (f"00-{TRACE}-{PARENT}-ff", f"00-{TRACE}-{PARENT}-ff"),
        (f"01-{TRACE}-{PARENT}-01", TRACED),
        (f"cc-{TRACE}-{PARENT}-ff", f"00-{TRACE}-{PARENT}-03"),
        (f"cc-{TRACE}-{PARENT}-01-what-comes-later", TRACED),
        (f"fe-{TRACE}-{PARENT}-01-", TRACED),
    ],
)
def test_a_valid_one_is_kept_as_version_00(header, stored):
    assert parse_traceparent(header).decode() == stored


@pytest.mark.parametrize(
    "header",
    [
        "",
        "none",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT.upper().replace('0', 'A')}-01",
        f"0A-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-0G",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01-",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}0-{PARENT}-01",
        f"{TRACED},{TRACED}",
        f" {TRACED}",
        f"{TRACED}\n",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE[:-1]}\u0663-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01-{'x' * MAX_TRACEPARENT_LENGTH}",
    ],
)
def test_any_other_counts_as_none(header):
    assert parse_traceparent(header) == b""


def test_it_comes_back_with_the_event_however_that_is_read(any_store, client, run_id):
    plain = any_store.append(run_id, "llm", "stream", 1)
    assert plain.event.traceparent is None
    traced = any_store.append(run_id, "llm", "stream", 1, traceparent=TRACED).event
    assert traced.traceparent == TRACED
    for options in ({"source": "me"}, {"lease_seconds": 60}, {"source": "me", "lease_seconds": 60}):
        any_store.add(run_id, "llm", "stream", 1, traceparent=TRACED, **options)
    events = any_store.get_events(run_id)
    assert [each.traceparent for each in events] == [None, *[TRACED] * 4]
    assert b"traceparent" not in events[0].to_json()
    for (entry_id, fields), event in zip(client.xrange(redis_keys(run_id)[0]), events, strict=True):
        raw = [part for pair in fields.items() for part in pair]
        assert Frame.of_entry(run_id, entry_id, raw).json == event.to_json()
        assert repr(TRACED) in repr(event) or event is events[0]


def test_an_event_of_several_has_its_own(any_store, run_id):
    names = {"event_category": "llm", "event_action": "stream"}
    traced = [names | {"traceparent": TRACED}, names, names | {"traceparent": OTHER}]
    any_store.add_many(run_id, [*traced, names | {"traceparent": "none"}])
    found = [each.traceparent for each in any_store.get_events(run_id)]
    assert found == [TRACED, None, OTHER, None]


def test_a_repeat_from_another_span_is_a_repeat_and_shows_what_is_stored(any_store, run_id):
    first = any_store.append(run_id, "llm", "stream", 1, traceparent=TRACED, idempotency_key="a")
    for traceparent in (OTHER, None, TRACED):
        again = any_store.append(
            run_id, "llm", "stream", 1, traceparent=traceparent, idempotency_key="a"
        )
        assert again.repeated
        assert again.event == first.event


def test_a_repeat_of_events_whose_first_is_gone_is_one(any_store, client, run_id):
    names = {"event_category": "llm", "event_action": "stream", "traceparent": TRACED}
    first = any_store.append_many(run_id, [names, names], idempotency_key="a")
    client.xdel(redis_keys(run_id)[0], str(first.first_id))
    again = any_store.append_many(run_id, [names, names], idempotency_key="a")
    assert (again.repeated, again.first_id) == (True, first.first_id)


@pytest.mark.parametrize("raw", [b"none", b"\xff", b"", f"ff-{TRACE}-{PARENT}-01".encode()])
def test_what_another_program_wrote_there_is_not_shown_unless_it_is_valid(
    any_store, client, run_id, raw
):
    any_store.add(run_id, "llm", "stream", 1, traceparent=TRACED)
    [(_, fields)] = client.xrange(redis_keys(run_id)[0])
    client.xadd(redis_keys(run_id)[0], fields | {b"sequence": b"2", b"traceparent": raw})
    event = any_store.get_events(run_id)[1]
    assert event.traceparent is None
    assert b"traceparent" not in event.to_json()


def test_an_appender_keeps_that_of_each_event(store, run_id):
    with store.appender(run_id) as appender:
        appender.emit("llm", "stream", 1, traceparent=TRACED)
        appender.emit("llm", "stream", 2)
        appender.emit_nowait("llm", "stream", 3, traceparent=OTHER)
    found = [each.traceparent for each in store.get_events(run_id)]
    assert found == [TRACED, None, OTHER]


def test_one_that_is_no_text_is_refused():
    with pytest.raises(InvalidEvent, match="traceparent: must be a string"):
        NewEvent.of("llm", "stream", traceparent=5)
