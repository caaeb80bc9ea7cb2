"""Opens the appender that the first two arguments of a program name: a URL and a run."""

import sys

from app.client import Client
from app.streaming.appender import Appender
from app.streaming.event_store import EventStore


def open_appender() -> Appender:
    """Return an appender through the gateway or the server at sys.argv[1], to run sys.argv[2]."""
    url, run_id = sys.argv[1:3]
    if url.startswith("http"):
        return Client(url).appender(run_id)
    return EventStore(url).appender(run_id, retry_seconds=0.2)


def emit(run: Appender, *data: object) -> None:
    for each in data:
        run.emit("llm", "stream", each)
