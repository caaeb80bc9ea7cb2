"""Redis cannot serve for a moment, as after a restart, when all clients come back together."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.routes.compat import answers
from app.streaming.errors import StoreUnavailable

CHUNKS = [{"type": "start"}, {"type": "finish"}]
PATHS = [
    "/compat/ai-sdk/1/stream",
    "/compat/ai-sdk/1/stream?startIndex=0",
    "/compat/ag-ui/1",
    "/compat/openai/v1/responses/1?stream=true&starting_after=0",
    "/compat/langgraph/threads/t/runs/1/stream",
]


@pytest.fixture
def failures(monkeypatch, fake_store) -> list[int]:
    """Return a list; while it is not empty, a read of a page fails, and takes one out of it."""
    failures: list[int] = []
    page = type(fake_store).page

    def fail_or_page(self, *args, **kwargs):
        if failures:
            failures.pop()
            raise StoreUnavailable("no connection available")
        return page(self, *args, **kwargs)

    monkeypatch.setattr(type(fake_store), "page", fail_or_page)
    monkeypatch.setattr(answers, "FIRST_PAUSE_SECONDS", 0.001)
    return failures


@pytest.mark.parametrize("path", PATHS)
def test_a_client_waits_for_its_turn(http, answer, failures, path):
    answer(*CHUNKS)
    failures += range(3)
    response = http.get(path)
    assert response.status_code == 200
    assert "finish" in response.text
    assert failures == []


@pytest.mark.parametrize("path", PATHS)
def test_a_client_is_refused_after_a_while(http, answer, failures, monkeypatch, path):
    monkeypatch.setattr(answers, "PATIENCE_SECONDS", 0)
    answer(*CHUNKS)
    failures += range(1000)
    assert http.get(path).status_code == 503
    assert failures


@pytest.mark.parametrize("path", [PATHS[1], PATHS[3]])
def test_what_was_counted_is_not_read_again(http, answer, fake_store, failures, monkeypatch, path):
    monkeypatch.setattr(answers, "PAGE_EVENTS", 1)
    answer(*CHUNKS)
    page = type(fake_store).page
    positions = []

    def note_and_page(self, *args, after=None, **kwargs):
        positions.append(after)
        if after is not None and positions.count(after) < 3:
            failures.append(0)
        return page(self, *args, after=after, **kwargs)

    monkeypatch.setattr(type(fake_store), "page", note_and_page)
    assert http.get(path).status_code == 200
    assert sorted(filter(None, positions)) == list(filter(None, positions))


def test_only_some_clients_read_at_once_and_all_have_their_turn(
    http, answer, fake_store, monkeypatch
):
    answer(*CHUNKS)
    page = type(fake_store).page
    reading, most = [], []

    def slow_page(self, *args, **kwargs):
        reading.append(1)
        most.append(len(reading))
        time.sleep(0.002)
        reading.pop()
        return page(self, *args, **kwargs)

    monkeypatch.setattr(type(fake_store), "page", slow_page)

    def status(number: int) -> int:
        return http.application.test_client().get(PATHS[1]).status_code

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(status, range(100))) == {200}
    assert max(most) <= answers.MAX_READERS
    assert answers._turns.acquire(blocking=False), "every turn is given back"
    answers._turns.release()


def test_who_has_no_turn_in_time_is_refused(http, answer, monkeypatch):
    answer(*CHUNKS)
    monkeypatch.setattr(answers, "_turns", threading.Semaphore(0))
    monkeypatch.setattr(answers, "PATIENCE_SECONDS", 0.01)
    assert http.get(PATHS[1]).status_code == 503
