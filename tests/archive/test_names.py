"""The names of objects: every run has a folder for itself, on every file system."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.archive.names import LogName, folder_of, is_epoch, run_id_of_folder
from app.streaming.errors import InvalidInput
from app.streaming.event_id import EventId

RUN_IDS = st.from_regex(r"[A-Za-z0-9_.-]{1,128}", fullmatch=True).filter(
    lambda run_id: run_id not in (".", "..")
)


@given(RUN_IDS)
def test_a_folder_tells_its_run(run_id):
    folder = folder_of(run_id)
    assert run_id_of_folder(folder) == run_id
    assert "/" not in folder
    assert len(folder) <= 200


@given(RUN_IDS, RUN_IDS)
def test_two_runs_have_two_folders_where_capitals_are_small_letters(one, other):
    assert (folder_of(one).lower() == folder_of(other).lower()) == (one == other)


def test_a_folder_can_be_read():
    assert folder_of("build-42") == "build-42"
    assert folder_of("MyRun") == "myrun+5"
    assert len(folder_of("A" * 128)) == 128 + 1 + 32


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a+", "a+0", "a+2", "A", "1+1", "a/b", "a b", "é", "a+1+1"]
)
def test_other_names_are_no_runs(name):
    assert run_id_of_folder(name) is None


def test_the_name_of_a_part_says_where_it_begins_and_is_given_once():
    log_name = LogName("Ab", b"1700000000000000")
    names = {log_name.part(EventId(17, 3)) for _ in range(100)}
    assert len(names) == 100
    for name in names:
        assert re.fullmatch(r"ab\+1/1700000000000000/17-3\.[0-9a-f]{16}\.ndjson\.gz", name)


def test_an_epoch_is_a_number():
    assert is_epoch("1700000000000000")
    assert not is_epoch("manifest.json")


@pytest.mark.parametrize("run_id", ["", ".", "..", "../a", "a/b", "é", "a" * 129])
def test_what_is_no_run_id_has_no_folder(run_id):
    with pytest.raises(InvalidInput):
        folder_of(run_id)
