"""The JSON of events: what counts as JSON, and half of a surrogate pair, stored as U+FFFD."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.streaming.errors import InvalidEvent
from app.streaming.event_json import MAX_SURROGATES, encode_json, is_json, read_json

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


ODD_PIECES = [
    *(b'"\xff"', b'"\xed\xa0\x80"', b'{"\xc3":1}', b'"\\ud800"', b'"\\x"', b'"a\nb"', b'"a\0b"'),
    *(b"1e308", b"1e309", b"1E+309", b"1e-999", b"01", b"1.", b"-", b"NaN", b"1" * 308, b"1" * 400),
    *(b"", b"[1 2]", b'{"a":1,}', b'{"a"}', b"nul", b'"', b"]", b"1\0", b"\v1", b" 1 "),
    *(b"[" * depth + b"]" * depth for depth in (200, 1000, 1022, 1023, 1024, 100_000)),
    *('"\u00e9 \u2028"'.encode(), b'"\\ud83d\\ude00"', b'"e2026 e+400"'),
]


def check_is_json(text: bytes) -> None:
    """Check that a text counts as JSON exactly if orjson can parse it."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        assert not is_json(text)
    else:
        assert is_json(text)


@pytest.mark.parametrize("piece", ODD_PIECES, ids=lambda piece: repr(piece[:12]))
@pytest.mark.parametrize("before", [b"[", b"[" + 20_000 * b"[],"], ids=["short", "dense"])
def test_what_is_json_is_what_orjson_can_parse(before, piece):
    check_is_json(before + piece + b"]")


@given(st.binary(min_size=1, max_size=3), st.integers(0, 60), st.booleans())
def test_damaged_json_is_json_only_if_orjson_can_parse_it(damage, at, replaces):
    text = 6_000 * b"[]," + '{"a":[1,2.5e3,"x\\u00e9 \u00e9"],"b":{"c":null,"d":-1E-5}}'.encode()
    at += 6_000 * 3
    check_is_json(b"[" + text[:at] + damage + text[at + replaces * len(damage) :] + b"]")
