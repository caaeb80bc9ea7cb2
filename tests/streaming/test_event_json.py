"""The JSON of events: half of a surrogate pair is stored as U+FFFD, wherever it comes from."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.streaming.errors import InvalidEvent
from app.streaming.event_json import MAX_SURROGATES, encode_json, read_json

PIECES = [
    *(r"\ud83d", r"\uDE00", r"\uD8ff", r"\udfFF", r"\\", r"\"", r"\n", r"\u0041", r"\/"),
    *("u", "d83d", r"\\u", "\u00e9", "\U0001f600"),
]
texts = st.lists(st.sampled_from(PIECES)).map("".join)


def mended(value):
    """Return what a decoder makes of text that a lenient parser has read."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [mended(each) for each in value]
    return {mended(name): mended(each) for name, each in value.items()}


@given(texts, texts)
def test_half_of_a_pair_becomes_the_replacement_character_and_nothing_else_changes(one, other):
    text = f'[ "{one}" , {{"{other}":"{one}"}},"{other}"]'
    expected = mended(json.loads(text))
    assert read_json(text.encode())[0] == expected
    assert read_json(bytearray(text.encode()))[0] == expected
    assert orjson.loads(encode_json("data", json.loads(text), 10**6)) == expected


@pytest.mark.parametrize(
    "text",
    [rb'"\ud83', rb'"\ud83d', rb'"\ud83d" 1', rb'"\ud83d\x"', b"\xed\xa0\xbd", b'"\\ud83d\0\0"'],
)
def test_what_is_no_json_for_another_reason_stays_none(text):
    with pytest.raises(orjson.JSONDecodeError):
        read_json(text)


def test_a_text_with_too_many_surrogates_is_not_mended():
    pairs = r"\ud83d\ude00" * (MAX_SURROGATES // 2)
    assert read_json(f'"{pairs[6:]}"'.encode())[0][0] == "\ufffd"
    with pytest.raises(orjson.JSONDecodeError, match="surrogate"):
        read_json(f'"\\ud83d{pairs}"'.encode())


def test_a_value_that_is_too_deep_is_refused_as_always():
    value = "\ud83d"
    for _ in range(5000):
        value = [value]
    with pytest.raises(InvalidEvent):
        encode_json("data", value, 10**6)
