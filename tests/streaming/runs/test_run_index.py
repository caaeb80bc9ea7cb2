"""The index of runs: what is noted, and in which order it is listed."""

import fakeredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.streaming.errors import InvalidInput
from app.streaming.event_store import EventStore
from app.streaming.runs import run_index
from app.streaming.runs.run_index import Noted, Place, RunIndex


@pytest.fixture
def index(fake_store: EventStore) -> RunIndex:
    return fake_store.runs.index


def ids(index: RunIndex, *arguments) -> list[str]:
    return [place.run_id for place in index.places(*arguments)]


def test_runs_are_listed_the_latest_activity_first(index):
    assert index.note([Noted("a", "active", 1), Noted("b", "ended", 3), Noted("c", "active", 2)])
    assert ids(index) == ["b", "c", "a"]
    assert ids(index, "active") == ["c", "a"]
    assert ids(index, "ended") == ["b"]


@pytest.mark.parametrize(
    ("before", "after", "is_news", "listed"),
    [
        (Noted("a", "active", 5), Noted("a", "active", 5), False, "active"),
        (Noted("a", "active", 5), Noted("a", "active", 6), False, "active"),
        (Noted("a", "active", 5), Noted("a", "ended", 6), True, "ended"),
        (Noted("a", "active", 5), Noted("a", "ended", 5), True, "ended"),
        (Noted("a", "active", 5), Noted("a", "ended", 4), False, "active"),
        (Noted("a", "ended", 5), Noted("a", "active", 6), True, "active"),
        (Noted("a", "ended", 5), Noted("a", "active", 4), False, "ended"),
        (Noted("a", "ended", 5), Noted("a", "gone", 5), True, None),
        (Noted("a", "active", 5), Noted("a", "gone", 6), True, None),
        (Noted("a", "active", 5), Noted("a", "gone", 4), False, "active"),
        (Noted("b", "ended", 5), Noted("a", "gone"), False, None),
    ],
)
def test_what_is_noted_of_a_run_is_the_latest(index, before, after, is_news, listed):
    index.note([before])
    assert index.ask([after]) == [is_news]
    assert before.run_id in ids(index, before.state)
    assert index.note([after]) == [is_news]
    for state in ("active", "ended"):
        assert ("a" in ids(index, state)) == (listed == state)


def test_an_old_note_does_not_move_a_run_back(index):
    index.note([Noted("a", "active", 9), Noted("b", "active", 5)])
    index.note([Noted("a", "active", 1)])
    assert ids(index) == ["a", "b"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["active", "ended"]), st.sampled_from([0, 1, 2, 10**18])),
        max_size=30,
    ),
    st.integers(1, 7),
    st.sampled_from([None, "active", "ended"]),
)
def test_every_place_leads_to_the_rest(runs, chunk, state):
    index = EventStore(client=fakeredis.FakeRedis(protocol=2)).runs.index
    index.note([Noted(f"run-{at}", state, ms) for at, (state, ms) in enumerate(runs)])
    expected = sorted(
        Place.of(f"run-{at}", ms)
        for at, (its_state, ms) in enumerate(runs)
        if state in (None, its_state)
    )
    before, run_index.CHUNK = run_index.CHUNK, chunk
    try:
        assert list(index.places(state)) == expected
        for at, place in enumerate(expected):
            assert list(index.places(state, place)) == expected[at + 1 :]
    finally:
        run_index.CHUNK = before


def test_many_runs_of_one_moment_are_listed_once_each(index, monkeypatch):
    monkeypatch.setattr(run_index, "_RANKS_PER_MS", 1)
    monkeypatch.setattr(run_index, "CHUNK", 10)
    index.note([Noted(f"run-{number}", "active", 5) for number in range(95)])
    assert sorted(ids(index)) == sorted(f"run-{number}" for number in range(95))


def test_a_cursor_is_the_text_of_a_place():
    place = Place.of("a.b-c_D", 1_795_000_000_000)
    assert Place.parse(str(place), "after") == place


@pytest.mark.parametrize(
    "cursor",
    ["", "r1", "r1.5", "r1.x.a", "r1.5.", "r1.5.a b", "r2.5.a", "r1.-5.a", "1-1",
     "m1.abc", "r1.5." + "a" * 129, "r1." + "5" * 17 + ".a", "r1.5." + "a" * 100_000, "r1.５.a"],
)  # fmt: skip
def test_a_damaged_cursor_is_refused(cursor):
    with pytest.raises(InvalidInput) as failed:
        Place.parse(cursor, "after")
    assert failed.value.field in ("after", "run_id")


def test_runs_are_known_in_either_state(index):
    index.note([Noted("a", "active", 1), Noted("b", "ended", 1)])
    assert index.known(["a", "x", "b"]) == [True, False, True]
    assert index.known([]) == []


def test_more_runs_than_one_command_takes(index, monkeypatch):
    monkeypatch.setattr(run_index, "CHUNK", 7)
    names = [f"run-{number}" for number in range(50)]
    news = index.note([Noted(name, "active", at) for at, name in enumerate(names)])
    assert news == [True] * 50
    assert ids(index) == names[::-1]
