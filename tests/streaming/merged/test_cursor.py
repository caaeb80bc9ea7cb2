"""The cursor of a merged stream: exact, short, and refused if it is damaged or another stream's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.streaming.errors import InvalidInput
from app.streaming.event_id import ZERO, EventId
from app.streaming.merged.cursor import MAX_LENGTH, MergedCursor, RunList

GREATEST = 2**64 - 1
NOW = 1_795_703_286_342
NUMBERS = st.one_of(st.integers(0, 3), st.integers(0, GREATEST), st.just(GREATEST))
IDS = st.builds(EventId, st.one_of(NUMBERS, st.integers(NOW - 10**6, NOW)), NUMBERS)


def runs_of(count: int) -> RunList:
    return RunList.of(f"run-{number}" for number in range(count))


@given(ids=st.lists(IDS, min_size=1, max_size=30))
def test_a_cursor_is_read_as_it_was_written(ids):
    runs = runs_of(len(ids))
    cursor = MergedCursor(runs, tuple(ids))
    assert MergedCursor.parse(str(cursor), runs, "id") == cursor


def test_the_order_in_which_runs_are_named_does_not_count():
    assert RunList.of(["b", "a", "c"]) == RunList.of(["c", "b", "a"])
    assert RunList.of(["b", "a"]).run_ids == ("a", "b")


@pytest.mark.parametrize("others", [["a"], ["a", "c"], ["a", "b", "c"], ["ab"], ["a", "B"]])
def test_a_cursor_of_other_runs_is_refused(others):
    cursor = MergedCursor(RunList.of(["a", "b"]), (EventId(NOW, 0), EventId(NOW, 1)))
    with pytest.raises(InvalidInput, match="of these runs") as caught:
        MergedCursor.parse(str(cursor), RunList.of(others), "Last-Event-ID")
    assert caught.value.field == "Last-Event-ID"


def test_a_cursor_is_refused_if_one_character_is_another_or_missing_or_too_much():
    runs = runs_of(3)
    text = str(MergedCursor(runs, (EventId(NOW, 0), EventId(NOW - 1, 7), EventId(5, GREATEST))))
    same = {text}
    for at in range(len(text)):
        for character in "Aa-_~.=é\0 ":
            same.add(text[:at] + character + text[at + 1 :])
            same.add(text[:at] + character + text[at:])
        same.add(text[:at] + text[at + 1 :])
    same.remove(text)
    for damaged in same:
        with pytest.raises(InvalidInput):
            # The unused bits of the last character may be any.
            raise_unless_equal(damaged, text, runs)


def raise_unless_equal(damaged: str, text: str, runs: RunList) -> None:
    parsed = MergedCursor.parse(damaged, runs, "id")
    if parsed == MergedCursor.parse(text, runs, "id"):
        raise InvalidInput("id", "means the same")


@pytest.mark.parametrize(
    "text",
    [
        *("", "m1.", "m1", "m2.AAAA", "1795703286342-0", "M1.AAAA", "m1.A", "m1." + "A" * 100_000),
        *("m1." + "A" * 15, "m1." + "_" * 200, "m1.\n", " m1.", "m1.%%%%", "earliest"),
    ],
)
def test_what_is_no_cursor_is_refused(text):
    with pytest.raises(InvalidInput):
        MergedCursor.parse(text, runs_of(2), "id")


@pytest.mark.parametrize(
    "numbers",
    [
        b"",  # nothing
        b"\x05",  # no ids
        b"\x05\x00\x00\x00",  # three ids
        b"\x05\x18\x00",  # older than 0
        b"\x05\x07\x00",  # a kind that does not exist
        b"\x05\x01\x00",  # the last id is missing
        b"\x80" * 11 + b"\x00\x00\x00",  # a number that is too long
        b"\xff" * 9 + b"\x7f\x00\x00",  # a number that is too large
        b"\x05\x01" + b"\xff" * 9 + b"\x02\x00",
    ],
)
def test_numbers_that_are_no_ids_are_refused(numbers, monkeypatch):
    runs = runs_of(2)
    monkeypatch.setattr(
        "app.streaming.merged.cursor._decode", lambda text: runs.digest + b"crc." + numbers
    )
    with pytest.raises(InvalidInput):
        MergedCursor.parse("m1.", runs, "id")


def test_a_cursor_of_many_runs_is_short():
    ids = tuple(EventId(NOW - number * 3_600_000 // 100, number % 3) for number in range(1000))
    assert len(str(MergedCursor(runs_of(100), ids[:100]))) < 700
    assert len(str(MergedCursor(runs_of(1000), ids))) < 8000
    without_logs = (EventId(NOW, 0), *[ZERO] * 999)
    assert len(str(MergedCursor(runs_of(1000), without_logs))) < 1400
    longest = (EventId(GREATEST, GREATEST - 1), *[EventId(0, GREATEST - 1)] * 999)
    assert len(str(MergedCursor(runs_of(1000), longest))) <= MAX_LENGTH


def test_a_cursor_is_at_most_another_if_it_is_ahead_in_no_run():
    runs = runs_of(2)

    def cursor(first: int, second: int) -> MergedCursor:
        return MergedCursor(runs, (EventId(first, 0), EventId(second, 0)))

    assert cursor(1, 1) <= cursor(1, 2) <= cursor(1, 2)
    assert not cursor(1, 2) <= cursor(1, 1)
    assert not cursor(2, 1) <= cursor(1, 2)
    assert not cursor(1, 2) <= cursor(2, 1)
    assert MergedCursor(runs, (ZERO, ZERO)) <= cursor(0, 1)
