"""The app on fakeredis, with Flask's test client."""

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.settings import Settings
from app.streaming.event_store import EventStore


@pytest.fixture
def settings() -> Settings:
    """Return the settings of the app. A module that needs others overrides this fixture."""
    return Settings()


@pytest.fixture
def http(settings: Settings, fake_store: EventStore) -> FlaskClient:
    return create_app(settings, event_store=fake_store).test_client()


@pytest.fixture
def ids(fake_store: EventStore) -> list[str]:
    """Append seven events with the data 0 to 6 to run 1, and return their ids."""
    names = [("llm", "stream"), ("tool", "call")]
    return [fake_store.add(1, *names[number % 2], number) for number in range(7)]
