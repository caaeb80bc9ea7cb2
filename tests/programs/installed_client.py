"""Appends to a run and follows it with the installed client: installed_client.py URL RUN_ID."""

import sys

from tailrace.client import Client

url, run_id = sys.argv[1:]
with Client(url, retry_seconds=5) as client:
    client.add(run_id, "lifecycle", "started")
    client.add(run_id, "llm", "stream", {"content": "Hello"})
    client.add(run_id, "lifecycle", "completed")
    for event in client.follow(run_id):
        if event.category != "gateway":
            print(f"{event.category}.{event.action}")
