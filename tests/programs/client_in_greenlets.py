"""Greenlets share a client: 100 of them add, and one follows: URL RUN_ID."""

import sys

import gevent

from app.client import Client

URL, RUN_ID = sys.argv[1:]
COMPLETED = {"event_category": "lifecycle", "event_action": "completed"}

if __name__ == "__main__":
    client = Client(URL)
    following = gevent.spawn(lambda: list(client.follow(RUN_ID)))
    adding = [gevent.spawn(client.add, RUN_ID, "llm", "stream", number) for number in range(100)]
    gevent.joinall(adding, raise_error=True)
    client.stream(RUN_ID, [COMPLETED])
    events = following.get(timeout=30)
    assert sorted(event.data for event in events if event.category == "llm") == list(range(100))
