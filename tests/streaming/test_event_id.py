"""The event id: parsing, and comparison as two numbers."""

import pytest

from app.streaming.errors import InvalidInput
from app.streaming.event_id import ZERO, EventId

MAX = 2**64 - 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-0", (0, 0)),
        ("1704067200000-12", (1704067200000, 12)),
        (f"{MAX}-{MAX}", (MAX, MAX)),
        ("007-01", (7, 1)),
    ],
)
def test_two_numbers_are_an_event_id(text, expected):
    assert EventId.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "abc", "1", "1-", "-1", "-", "1-2-3", "1--2", "+1-1", "1-+1", " 1-1", "1-1 "),
        *("1-1\n", "1_0-1", "1.0-1", "0x1-1", "*", "$", "1-*", "٣-٣", "１-１", "1\0-1"),
        *(f"{MAX + 1}-0", f"0-{MAX + 1}", f"{'0' * 21}-0", f"1-{'9' * 5000}"),
    ],
)
def test_anything_else_is_refused_and_its_field_named(text):
    with pytest.raises(InvalidInput, match="after: ") as refused:
        EventId.parse(text, "after")
    assert refused.value.field == "after"


def test_ids_compare_as_numbers_and_not_as_text():
    texts = ["10-0", "1-10", "1-9", "9-99", "1-1"]
    assert sorted(map(EventId.parse, texts)) == [(1, 1), (1, 9), (1, 10), (9, 99), (10, 0)]


def test_an_id_of_redis_is_read():
    assert EventId.from_redis(b"1704067200000-3") == EventId.parse("1704067200000-3")


@pytest.mark.parametrize("text", ["0-0", "5-7", f"{MAX}-{MAX}"])
def test_an_id_is_written_as_it_was_parsed(text):
    assert str(EventId.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "before"), [("5-7", "5-6"), ("5-0", f"4-{MAX}"), ("0-1", "0-0"), ("0-0", "0-0")]
)
def test_before_is_the_greatest_id_below(text, before):
    assert str(EventId.parse(text).before()) == before


def test_zero_is_below_the_first_id_that_redis_gives():
    assert EventId.parse("0-1") > ZERO
