"""Takes a census of a server without runs, and prints how many seconds that took."""

import sys
import time

from app.streaming.event_store import EventStore

store = EventStore(sys.argv[1])
began = time.monotonic()
store.census().take()
assert store.runs.index.known([]) == store.describe([]) == store.last_ids([]) == []
print(time.monotonic() - began)
