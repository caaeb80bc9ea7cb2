"""Emits one event and checks that this does not load multiprocessing: URL RUN_ID."""

import sys

from app.streaming.event_store import EventStore

if __name__ == "__main__":
    url, run_id = sys.argv[1:]
    with EventStore(url).appender(run_id) as run:
        run.emit("llm", "stream")
    assert "multiprocessing.util" not in sys.modules
