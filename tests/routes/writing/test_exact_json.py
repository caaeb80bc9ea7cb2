"""Dense JSON: it is parsed like any other, but item by item, with turns for the other requests."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.routes.writing import exact_json
from app.routes.writing.exact_json import NotJson, parse_document, parse_json
from app.streaming.errors import EventTooLarge
from app.streaming.new_event import MAX_EVENT_BYTES, MAX_EVENTS

EVENT = {"event_category": "llm", "event_action": "stream"}
LISTS = b"[" + b",".join([b"[]"] * 87_000) + b"]"
NAMES = b"{" + b",".join(b'"%06d":1' % number for number in range(200_000)) + b"}"

VALUES = {
    "lists": [[]] * 80_000,
    "numbers": [0] * 120_000,
    "floats": [0.1234567] * 25_000,
    "long integers": [2**64 - 1] * 12_000,
    "nulls": [None] * 50_000,
    "records": [{"a": 1}] * 30_000,
    "strings": [""] * 80_000,
    "strings that look like structure": ['",":[{\\"'] * 15_000,
    "text": 'é\\"\n' * 20_000,
}


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the turns that the other requests get."""
    turns: list[float] = []
    monkeypatch.setattr(exact_json, "give_turn", lambda: turns.append(0.0))
    return turns


def parse(body: bytes) -> Any:
    document = parse_document(body, MAX_EVENT_BYTES)
    return list(document) if isinstance(document, Iterator) else document


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_batch_of_events_of_the_largest_size_is_parsed_exactly(value, indent):
    batch = [{**EVENT, "data": value}] * 3 + [{**EVENT, "data": [2**64 - 1, 1.0, {"é": None}]}]
    assert parse(json.dumps(batch, indent=indent).encode()) == batch


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_an_event_of_the_largest_size_is_parsed_whatever_its_form(value, indent, ensure_ascii):
    event = {**EVENT, "data": value}
    text = json.dumps(event, indent=indent, ensure_ascii=ensure_ascii).encode()
    assert parse_json(text, MAX_EVENT_BYTES) == event


def test_a_dense_batch_gives_the_others_turns(turns):
    batch = b"[" + b",".join([b'{"data":' + LISTS + b"}"] * 4) + b"]"
    assert len(parse(batch)) == 4
    assert len(turns) >= 4


def test_a_batch_that_is_not_dense_is_parsed_at_once(turns):
    batch = [{**EVENT, "data": "x" * 4000}] * 1000
    document = parse_document(json.dumps(batch).encode(), MAX_EVENT_BYTES)
    assert (document, turns) == (batch, [])


@pytest.mark.parametrize(
    "dense",
    [
        b"[" + b",".join([b"[]"] * 400_000) + b"]",
        b"[" + b",".join([b'""'] * 400_000) + b"]",
        NAMES,
    ],
    ids=["lists", "strings", "names"],
)
def test_a_dense_event_larger_than_the_largest_is_refused_before_it_is_parsed(dense, monkeypatch):
    def parse_nothing_large(text: bytes) -> tuple[Any, bytes]:
        assert len(text) < 3 * MAX_EVENT_BYTES
        return json.loads(text), text

    monkeypatch.setattr(exact_json, "read_json", parse_nothing_large)
    for text in (dense, b'{"data":' + dense + b"}", b'{"event": ' + dense + b"}"):
        with pytest.raises(EventTooLarge) as raised:
            parse_json(text, MAX_EVENT_BYTES)
        assert raised.value.field == "data"
        with pytest.raises(EventTooLarge) as raised:
            parse(b'[{"a":1},' + text + b"]")
        assert raised.value.field == "1.data"


@pytest.mark.parametrize(
    ("rest", "field"),
    [
        (b",nope]", "2"),
        (b",1", "body"),
        (b",", "2"),
        (b"]]", "body"),
        (b"] 1", "body"),
        (b"", "body"),
        (b" 1]", "body"),
        (b",[1e400]]", "2"),
        (b",[01]]", "2"),
        (b",]", "2"),
    ],
)
def test_what_is_wrong_with_a_dense_array_is_named(rest, field):
    with pytest.raises(NotJson) as raised:
        parse(b"[" + LISTS + b"," + LISTS + rest)
    assert raised.value.field == field
    assert raised.value.detail.startswith("is not JSON: ")


def test_a_dense_array_that_is_not_utf8_is_refused():
    with pytest.raises(NotJson):
        parse(b"[" + LISTS + b"," + LISTS + b',"\xff"]')


def test_a_dense_array_that_is_nested_too_deeply_is_refused():
    deep = b"[" * 2000 + b"]" * 2000
    with pytest.raises(NotJson) as raised:
        parse(b"[" + LISTS + b"," + LISTS + b"," + deep + b"]")
    assert raised.value.field == "2"


def test_of_a_dense_array_no_more_items_are_parsed_than_an_append_may_have():
    body = b"[" + b",".join([b'{"data":[1,2,3,4,5,6,7,8]}'] * 100_000) + b"]"
    assert len(parse(body)) == MAX_EVENTS + 1


def test_an_array_of_nothing_is_empty():
    assert parse(b"[" + b" " * 100_000 + b"]") == []
