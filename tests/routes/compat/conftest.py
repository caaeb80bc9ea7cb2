"""The app with all presets, and functions that append answers and read streams."""

import json
from collections.abc import Callable

import pytest
from werkzeug.test import TestResponse

from app.settings import Settings
from app.streaming.event_store import EventStore


@pytest.fixture
def settings() -> Settings:
    return Settings(compat=("ai-sdk", "ag-ui", "openai", "langgraph"))


@pytest.fixture
def answer(fake_store: EventStore) -> Callable[..., list[str]]:
    """Return a function that appends an answer to run 1, and returns the ids of its events.

    It begins with `lifecycle.started`, has the chunks, and ends with the last one, if `ends`.
    """

    def append(*chunks: object, ends: bool = True) -> list[str]:
        *middle, last = chunks
        ids = [fake_store.add(1, "lifecycle", "started")]
        ids += [fake_store.add(1, "sse", "message", chunk) for chunk in middle]
        end = ("lifecycle", "completed") if ends else ("sse", "message")
        return [*ids, fake_store.add(1, *end, last)]

    return append


@pytest.fixture
def chunks_of() -> Callable[[TestResponse], list[object]]:
    """Return a function that returns the data of each event of a stream."""

    def read(response: TestResponse) -> list[object]:
        assert response.status_code == 200, response.text
        assert response.content_type.startswith("text/event-stream")
        lines = [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    return read
