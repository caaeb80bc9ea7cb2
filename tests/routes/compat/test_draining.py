"""A worker that is stopping closes the connection of a client that asks for a stream."""

import pytest

from app import create_app
from app.settings import Settings
from tests.routes.compat.test_patience import PATHS

CHUNKS = [{"type": "start"}, {"type": "finish"}]


@pytest.fixture
def app(fake_store, settings: Settings):
    return create_app(settings, event_store=fake_store)


@pytest.mark.parametrize("path", PATHS)
def test_a_worker_that_stops_gives_no_answer(app, answer, path):
    answer(*CHUNKS)
    app.extensions["tailrace"].streams.draining = True
    with pytest.raises(ConnectionResetError):
        app.test_client().get(path)


@pytest.mark.parametrize("path", PATHS)
def test_a_worker_that_is_full_says_so(fake_store, answer, path):
    answer(*CHUNKS)
    settings = Settings(compat=("ai-sdk", "ag-ui", "openai", "langgraph"), max_streams=0)
    http = create_app(settings, event_store=fake_store).test_client()
    assert http.get(path).status_code == 503
