"""Answers in each dialect: what is a chunk, where they end, and what their clients are told."""

import json

import pytest

from app.streaming.event import Event
from app.streaming.event_id import EventId
from app.streaming.wire.answer import AnswerEvents
from app.streaming.wire.dialects import AG_UI, AI_SDK, DIALECTS, LANGGRAPH, OPENAI, RAW, Dialect
from app.streaming.wire.frame import Frame

from .test_payload import entry

TYPED = [AI_SDK, AG_UI, OPENAI]
ALL = [*TYPED, LANGGRAPH]
named = pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
typed = pytest.mark.parametrize("dialect", TYPED, ids=lambda each: each.name)


def frame_of(data: object, category: str = "sse", action: str = "message", source=None) -> Frame:
    fields = entry(data, source, category=category, action=action)
    return Frame.of_entry("r", b"5-1", fields)


def sent(dialect: Dialect, *args, **kwargs) -> list[tuple[str, str]]:
    """Return the fields that are sent of an event, but for comments and empty lines."""
    frame = args[0] if isinstance(args[0], Frame) else frame_of(*args, **kwargs)
    text = AnswerEvents(dialect=dialect).frame(frame).decode()
    lines = [line for line in text.split("\n") if line and not line.startswith(":")]
    return [tuple(line.split(": ", 1)) for line in lines]


def events(dialect: Dialect, *args, **kwargs) -> list[object]:
    values = [value for name, value in sent(dialect, *args, **kwargs) if name == "data"]
    return [value if value == "[DONE]" else json.loads(value) for value in values]


@named
def test_an_object_with_a_type_is_a_chunk_of_any_category(dialect):
    for category in ("sse", "llm", "lifecycle"):
        action = "started" if category == "lifecycle" else "stream"
        fields = dict(sent(dialect, {"type": "x"}, category, action))
        assert (fields["id"], fields["data"]) == ("5-1", '{"type":"x"}')


@typed
@pytest.mark.parametrize("data", [None, 1, "text", [], {}, {"type": 1}, {"type": None}, {"a": 1}])
def test_anything_else_is_no_chunk_where_chunks_have_types(dialect, data):
    assert sent(dialect, data, "llm", "stream") == []
    assert sent(dialect, data, "lifecycle", "started") == []


@named
def test_a_request_is_no_chunk(dialect):
    assert sent(dialect, {"type": "x"}, "request", "cancel") == []


def test_langgraph_has_any_data_and_the_names_of_events():
    assert sent(LANGGRAPH, [1], "sse", "values") == [
        ("id", "5-1"),
        ("event", "values"),
        ("data", "[1]"),
    ]
    source = {"sse": {"event": "messages/partial"}}
    assert ("event", "messages/partial") in sent(LANGGRAPH, [1], "sse", "messages_partial", source)
    assert sent(LANGGRAPH, "a\nb", "sse", "message", {"sse": {"text": True}}) == [
        ("id", "5-1"),
        ("data", '"a\\nb"'),
    ]
    assert ("event", "metadata") in sent(LANGGRAPH, {}, "lifecycle", "started")
    assert ("event", "end") in sent(LANGGRAPH, {}, "lifecycle", "completed")
    assert ("event", "error") in sent(LANGGRAPH, {}, "lifecycle", "failed")


def test_openai_has_the_type_as_the_name():
    assert ("event", "response.created") in sent(OPENAI, {"type": "response.created"})


@pytest.mark.parametrize("name", ["a\nid: 9-9", "a\rb", "a\0b", "a\u2028id: 9-9", "a\x85b", ""])
def test_a_name_cannot_break_its_line(name):
    for dialect in (LANGGRAPH, OPENAI):
        fields = sent(dialect, {"type": name}, source={"sse": {"event": name}})
        assert [field for field, _ in fields] == ["id", "data"]


@pytest.mark.parametrize("dialect", [AI_SDK, AG_UI], ids=lambda each: each.name)
def test_others_have_no_names(dialect):
    assert [name for name, _ in sent(dialect, {"type": "x"}, action="y")] == ["id", "data"]


END_CHUNKS = {
    AI_SDK: [{"type": "finish"}, "[DONE]"],
    AG_UI: [{"type": "RUN_FINISHED"}],
    OPENAI: [{"type": "response.completed"}, "[DONE]"],
    LANGGRAPH: [{}],
}


@named
def test_the_chunk_that_ends_the_run_ends_the_stream(dialect):
    data = END_CHUNKS[dialect][0]
    assert events(dialect, data, "lifecycle", "completed") == END_CHUNKS[dialect]


@named
@pytest.mark.parametrize("action", ["completed", "failed", "cancelled", "lost"])
def test_the_stream_ends_with_any_terminal_event(dialect, action):
    wire = AnswerEvents(dialect=dialect)
    assert wire.is_last(frame_of(None, "lifecycle", action))
    assert not wire.is_last(frame_of(None, "lifecycle", "started"))
    assert not wire.is_last(frame_of({"type": "finish"}))


COMPLETED = {
    AI_SDK: [{"type": "finish"}, "[DONE]"],
    AG_UI: [{"type": "RUN_FINISHED", "threadId": "r", "runId": "r"}],
    OPENAI: ["[DONE]"],
    LANGGRAPH: [],
}


@named
@pytest.mark.parametrize("data", [None, {"tokens": 7}])
def test_a_run_that_has_completed_without_a_chunk(dialect, data):
    if dialect is LANGGRAPH and data:
        return  # any data is a chunk there
    assert events(dialect, data, "lifecycle", "completed") == COMPLETED[dialect]


def told(dialect: Dialect, action: str, why: str) -> list[object]:
    return {
        AI_SDK: [{"type": "error", "errorText": why}, "[DONE]"],
        AG_UI: [{"type": "RUN_ERROR", "message": why, "code": action}],
        OPENAI: [
            {
                **{"type": "error", "code": action, "message": why, "param": None},
                "sequence_number": 7,
            },
            "[DONE]",
        ],
        LANGGRAPH: [{"error": action, "message": why}],
    }[dialect]


@typed
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "the run is failed"),
        ("no more tokens", "no more tokens"),
        ({"message": "m", "error": "e", "reason": "r"}, "m"),
        ({"error": "e"}, "e"),
        ({"reason": "r"}, "r"),
        ({"error": {"code": 1}}, "the run is failed"),
        ([1], "the run is failed"),
    ],
)
def test_a_run_that_has_failed_says_why(dialect, data, why):
    assert events(dialect, data, "lifecycle", "failed") == told(dialect, "failed", why)


@named
def test_a_lost_run_is_an_error(dialect):
    why = "the run is lost"
    assert events(dialect, None, "lifecycle", "lost") == told(dialect, "lost", why)


def test_a_cancelled_run_is_aborted_or_an_error():
    aborted = [{"type": "abort"}, {"type": "finish"}, "[DONE]"]
    for data in (None, {"type": "abort"}):
        assert events(AI_SDK, data, "lifecycle", "cancelled") == aborted
    for dialect in (AG_UI, OPENAI, LANGGRAPH):
        why = "the run is cancelled"
        assert events(dialect, None, "lifecycle", "cancelled") == told(dialect, "cancelled", why)


@pytest.mark.parametrize("data", [None, "no more tokens", {"lease_seconds": 1}, [1]])
@pytest.mark.parametrize("action", ["failed", "lost"])
def test_langgraph_is_told_of_an_error_in_its_own_words(action, data):
    [error] = events(LANGGRAPH, data, "lifecycle", action)
    why = data if isinstance(data, str) else f"the run is {action}"
    assert error == {"error": action, "message": why}


@pytest.mark.parametrize("data", [{"error": "ValueError"}, {"message": "m"}])
def test_langgraph_gets_an_error_as_it_came(data):
    assert events(LANGGRAPH, data, "lifecycle", "failed") == [data]
    source = {"sse": {"event": "error"}}
    assert events(LANGGRAPH, "text", "lifecycle", "failed", source) == ["text"]


END = {
    AI_SDK: [{"type": "finish"}, "[DONE]"],
    AG_UI: [{"type": "RUN_FINISHED", "threadId": "r", "runId": "r"}],
    OPENAI: ["[DONE]"],
    LANGGRAPH: [],
}


@named
def test_the_end_is_told_once_more_without_an_id(dialect):
    event = Event("5-1", "r", 7, None, "lifecycle", "completed", "null", "null")
    text = AnswerEvents(dialect=dialect).end(event).decode()
    values = [line.removeprefix("data: ") for line in text.split("\n") if line]
    assert [each if each == "[DONE]" else json.loads(each) for each in values] == END[dialect]


@named
@pytest.mark.parametrize("action", ["gap", "reset"])
def test_missing_events_are_an_error_and_the_end(dialect, action):
    notice = Frame.control("r", action, None, cursor=EventId(1, 0))
    [error, *_] = events(dialect, notice)
    assert "answer" in json.dumps(error)
    assert AnswerEvents(dialect=dialect).is_last(notice)


@named
@pytest.mark.parametrize("action", ["caught_up", "progress", "expiring"])
def test_other_control_events_are_comments(dialect, action):
    notice = Frame.control("r", action, None, cursor=EventId(1, 0), id_line=EventId(1, 0))
    assert sent(dialect, notice) == []
    assert not AnswerEvents(dialect=dialect).is_last(notice)


def test_an_event_that_names_itself_a_notice_is_none():
    frame = Frame.of_entry("r", b"5-1", entry({"type": "x"}, category="gateway", action="gap"))
    assert sent(AI_SDK, frame) == []


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda each: each.name)
@pytest.mark.parametrize("data", [None, 1, "start", [], {}, {"type": 1}, {"type": ["start"]}])
def test_data_without_a_type_has_no_kind(dialect, data):
    assert dialect.kind("message", data) == ("message" if dialect.by_name else None)


def test_a_kind_is_the_type_or_the_name():
    assert AI_SDK.kind("x", {"type": "start"}) == "start"
    assert LANGGRAPH.kind("end", {"type": "start"}) == "end"
    assert RAW.kind("x", {"type": "start"}) == "start"
