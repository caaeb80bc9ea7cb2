"""A line gives back the entry that it was made of, byte for byte, and reads as the API gives it."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.archive.lines import line_of, parse_line
from app.streaming.log.replies import parse_event
from app.streaming.new_event import MAX_EVENT_BYTES, NewEvent
from tests.archive.logs import ODD_FIELDS, entries_of

EPOCH = b"1700000000000000"
RECURSION = 300


def restored(entry, epoch=EPOCH):
    return parse_line(line_of("a", entry, epoch)).to_entry(epoch)


TRACED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.mark.parametrize(
    "options", [{}, {"lease_seconds": 60}, TRACED, {"lease_seconds": 60, **TRACED}]
)
@pytest.mark.parametrize("source", [None, {"a": "é"}])
def test_an_entry_of_tailrace_is_the_line_of_the_api_and_its_lease(
    any_store, run_id, source, options
):
    any_store.add(run_id, "a", "b", {"text": "\u2027 \U0001f600", "n": 1.0}, source, **options)
    [entry] = entries_of(any_store, run_id)
    epoch = any_store.state(run_id).epoch
    line = line_of(run_id, entry, epoch)
    api = parse_event(run_id, entry).to_json()
    assert line[: len(api) - 1] == api[:-1]
    more = {name: value for name, value in options.items() if name == "lease_seconds"}
    assert orjson.loads(line) == orjson.loads(api) | more
    assert parse_line(line).to_entry(epoch) == entry


@pytest.mark.parametrize("fields", ODD_FIELDS, ids=lambda fields: repr(fields[-1][:20]))
def test_an_entry_of_another_program_comes_back_byte_for_byte(fields):
    entry = [b"17-3", fields]
    line = line_of("a", entry, EPOCH)
    assert parse_line(line).to_entry(EPOCH) == entry
    assert b"\n" not in line
    assert orjson.loads(line)["id"] == "17-3"


@given(st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), min_size=1))
def test_any_fields_come_back(pairs):
    entry = [b"1-1", [part for pair in pairs for part in pair]]
    assert restored(entry) == entry


NAMES = [b"timestamp", b"sequence", b"epoch", b"event_category", b"event_action", b"data"]


@given(
    st.lists(
        st.sampled_from([b"", b"1", b"0", b"null", b'"a"', b"[ 1 ]", b"1e400", b'"\\ud800"',
                         b"true", b"18446744073709551616", b'{"a":1,"a":2}', EPOCH]),
        min_size=8,
        max_size=8,
    )
)  # fmt: skip
def test_entries_that_resemble_those_of_tailrace_come_back(values):
    names = [*NAMES, b"source", b"lease_seconds"]
    entry = [b"1-1", [part for pair in zip(names, values, strict=True) for part in pair]]
    assert restored(entry) == entry


def test_a_line_of_deep_data_can_be_read_where_the_stack_is_deep():
    fields = [*ODD_FIELDS[7]]
    fields[-1] = b"[" * 900 + b"]" * 900
    line = line_of("a", [b"1-1", fields], EPOCH)

    def read(depth):
        return read(depth - 1) if depth else parse_line(line).to_entry(EPOCH)

    assert read(RECURSION) == [b"1-1", fields]


def test_the_largest_event_comes_back(fake_store, run_id):
    fake_store.append_new(run_id, [NewEvent.of("a", "b", "x" * (MAX_EVENT_BYTES - 2), None)])
    [entry] = entries_of(fake_store, run_id)
    epoch = fake_store.state(run_id).epoch
    assert parse_line(line_of(run_id, entry, epoch)).to_entry(epoch) == entry


@pytest.mark.parametrize("line", [b"", b"{}", b"null", b'{"id":1}', b"\xff", b"[" * 10_000])
def test_a_broken_line_is_a_value_error(line):
    with pytest.raises(ValueError, match=r"."):
        parse_line(line)
