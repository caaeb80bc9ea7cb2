"""A client appends before a fork, and 100 events in the parent and the child: URL RUN_ID."""

import os
import sys

from app.client import Client

if __name__ == "__main__":
    url, run_id = sys.argv[1:]
    client = Client(url)
    client.add(run_id, "llm", "stream", "before")
    child = os.fork()
    name = "parent" if child else "child"
    for number in range(100):
        client.add(run_id, "llm", "stream", [name, number])
    if child:
        assert os.waitpid(child, 0)[1] == 0, "the child failed"
