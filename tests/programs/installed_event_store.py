"""Appends and reads with the installed event store: installed_event_store.py REDIS_URL RUN_ID."""

import sys

from tailrace.streaming.event_store import EventStore

url, run_id = sys.argv[1:]
store = EventStore(url)
store.add(run_id, "lifecycle", "started")
store.add(run_id, "lifecycle", "completed")
for event in store.get_events(run_id):
    print(event.sequence)
