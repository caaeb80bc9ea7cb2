"""An event as a line, and what is said of missing events."""

import pytest

from app.command_line.output.event_line import MissingEvents, event_line, time_of
from app.command_line.output.printers import text_of
from app.streaming.event import Event


def event(sequence: int | None, data: bytes = b"null", name: str = "llm.stream") -> Event:
    category, action = name.split(".")
    return Event(
        id=None if category == "gateway" else f"{sequence}-0",
        run_id="1",
        sequence=sequence,
        timestamp="2026-11-26T14:28:06.341Z",
        category=category,
        action=action,
        data_json=data,
        source_json=b"null",
    )


def gateway(action: str) -> Event:
    return event(None, name=f"gateway.{action}")


@pytest.fixture(autouse=True)
def utc(monkeypatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"null", "llm.stream"),
        (b'"two\\nlines\\u001b"', "llm.stream           two\\nlines\\u001b"),
        (b'{"a":1.0,"b":[1e5]}', 'llm.stream           {"a":1.0,"b":[1e5]}'),
        ('{"a":"\u202e"}'.encode(), 'llm.stream           {"a":"\\u202e"}'),
    ],
)
def test_data_are_a_text_or_json_on_one_line(data, shown):
    assert event_line(event(7, data), 0, None).split(maxsplit=2)[2] == shown


def test_a_line_is_cut_to_the_width_that_is_given():
    line = event_line(event(7, b'"' + b"x" * 100 + b'"'), 0, 60)
    assert len(line) == 60
    assert line.endswith("x…")
    assert len(event_line(event(7, b'"abc"'), 0, 30)) <= 30


def test_what_another_program_wrote_has_its_place_too():
    odd = Event("1-0", "1", None, "yesterday\x1b", None, None, b"null", b"null")
    assert event_line(odd, 3, None) == "--:--:--.--- 1       - -.-"


@pytest.mark.parametrize("timestamp", [None, "", "2026-13-26T14:28:06.341Z", "x" * 9999])
def test_a_time_that_is_none_is_shown_as_unknown(timestamp):
    assert time_of(timestamp) == "--:--:--.---"


def said(missing: MissingEvents, *events: Event) -> list[str]:
    return [text for each in events if (text := missing.before(each)) is not None]


def test_a_gap_is_counted_by_the_sequences_around_it():
    missing = MissingEvents(1, False)
    assert said(missing, event(1), gateway("gap"), event(14), event(15)) == ["… 12 events are gone"]
    assert said(missing, gateway("gap"), event(17)) == ["… 1 event is gone"]


def test_what_was_trimmed_before_the_start_is_counted_too():
    assert said(MissingEvents(1, False), event(41)) == ["… 40 events are gone"]
    assert said(MissingEvents(40, False), gateway("gap"), event(41)) == ["… 1 event is gone"]
    assert said(MissingEvents(None, False), event(41)) == []


def test_nobody_can_count_what_a_filter_hides():
    missing = MissingEvents(1, True)
    assert said(missing, event(5), gateway("gap"), event(9)) == ["… events are gone"]


def test_a_gap_that_reaches_to_the_end_is_said_once_the_history_is_shown():
    missing = MissingEvents(1, False)
    assert said(missing, event(1), gateway("gap"), gateway("caught_up")) == ["… events are gone"]


def test_after_a_reset_the_count_begins_anew():
    missing = MissingEvents(1, False)
    first, second = said(missing, event(9), gateway("reset"), event(1), event(2))
    assert first == "… 8 events are gone"
    assert second.startswith("… the log was deleted")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("a", "a"),
        ({"content": "a"}, "a"),
        ({"text": "a", "n": 1}, "a"),
        ({"delta": "a"}, "a"),
        ({"token": "a"}, "a"),
        ({"content": None, "text": "a"}, "a"),
        ({"content": ["a"]}, None),
        ({}, None),
        (None, None),
        (5, None),
    ],
)
def test_the_text_of_tokens_has_one_of_a_few_names(data, text):
    assert text_of(data) == text
