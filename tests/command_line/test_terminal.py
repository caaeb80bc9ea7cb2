"""Text for a terminal: nothing that the terminal would obey, and the columns that it takes."""

import json

import pytest

from app.command_line.output.terminal import (
    MAX_MARKS,
    cells,
    cut,
    printable,
    printable_json,
    printable_text,
)

HOSTILE = {
    "CSI": "\x1b[31mred\x1b[0m",
    "OSC": "\x1b]0;title\x07",
    "BEL": "ding\x07",
    "CR": "hidden\rshown",
    "backspace": "rm\b\bls",
    "C1 CSI": "\x9b31m",
    "C1 NEL": "a\x85b",
    "DEL": "\x7f",
    "right-to-left override": "\u202egnp.exe",
    "isolate": "\u2066a\u2069",
    "line separator": "a\u2028b",
    "zero width": "a\u200bb\ufeff",
    "tags": "a\U000e0041",
    "half of a pair": "\ud83d",
    "NUL": "\0",
}


def is_harmless(text: str) -> bool:
    return all(part.isprintable() for part in text.split("\n"))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_that_a_terminal_obeys_is_printed_raw(text):
    assert is_harmless(printable(text))
    assert "\n" not in printable(f"{text}\n")
    assert is_harmless(printable_text(text))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_json_is_harmless_and_means_the_same(text):
    if text == "\ud83d":
        return  # UTF-8 cannot hold it
    line = json.dumps({"data": text}, ensure_ascii=False).encode()
    shown = printable_json(line)
    assert is_harmless(shown.decode())
    assert json.loads(shown) == {"data": text}


def test_what_a_server_sends_instead_of_json_is_harmless_too():
    assert printable_json(b'{"a":"\x1b]0;title\x07",\t"b":1}') == (
        b'{"a":"\\u001b]0;title\\u0007",\t"b":1}'
    )


@pytest.mark.parametrize("text", ["plain", "Grüße, 世界", "👩‍👩‍👧 ok", "سلام", "a\\u001b"])
def test_ordinary_text_stays_as_it_is(text):
    assert printable(text) == text
    assert printable_text(text) == text
    assert printable_json(text.encode()) == text.encode()


def test_text_of_several_lines_keeps_its_layout():
    assert printable_text("a\tb\r\nc\n\rd") == "a\tb\nc\n\\rd"


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("世界人", 6, "世界人"),
        ("世界人", 5, "世界…"),
        ("世界人", 4, "世…"),
        ("e\u0301e\u0301e\u0301", 2, "e\u0301…"),
        ("abc", 0, ""),
        ("a" + "\u0301" * 99, 3, "a" + "\u0301" * MAX_MARKS),
        ("a" + "\u0301" * 99 + "bcd", 3, "a" + "\u0301" * MAX_MARKS + "b…"),
    ],
)
def test_a_text_is_cut_to_the_columns_that_it_takes(text, width, shown):
    assert cut(text, width) == shown
    assert cells(shown) <= width
