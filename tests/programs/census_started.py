"""Starts a census, and waits until it has found a run of another program."""

import sys
import time

import redis

from app.streaming.event_store import EventStore
from app.streaming.runs import census as census_module

census_module.LOOK_SECONDS, census_module.TURN_SECONDS = 0.01, 0
url = sys.argv[1]
with redis.Redis.from_url(url) as client:
    client.xadd("run:found:events", {"any": "thing"})
store = EventStore(url)
census = store.census()
census.start()
census.start()
while not store.runs.index.known(["found"])[0]:
    time.sleep(0.01)
