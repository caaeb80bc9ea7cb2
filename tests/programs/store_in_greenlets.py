"""Twenty greenlets subscribe, five append, and one ticks meanwhile: REDIS_URL RUN_ID."""

import sys

import gevent

from app.streaming.event_store import EventStore

URL, RUN_ID = sys.argv[1:]

store = EventStore(URL)
seen: dict[int, list[int]] = {}
ticks = 0


def follow(name: int) -> None:
    seen[name] = []
    store.subscribe(RUN_ID, block_ms=None)
    while len(seen[name]) < 50:
        seen[name] += [event.data for event in store.subscribe(RUN_ID, block_ms=0)]


def produce(first: int) -> None:
    for number in range(first, first + 10):
        store.add(RUN_ID, "llm", "stream", number)


def tick() -> None:
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)


if __name__ == "__main__":
    followers = [gevent.spawn(follow, name) for name in range(20)]
    gevent.spawn(tick)
    while len(seen) < 20 or ticks < 100:
        gevent.sleep(0.01)
    producers = [gevent.spawn(produce, first) for first in range(0, 50, 10)]
    gevent.joinall(followers + producers, timeout=30, raise_error=True)
    assert all(sorted(data) == list(range(50)) for data in seen.values()), seen
    assert len(set(map(tuple, seen.values()))) == 1, "every follower sees one order"
    print("all seen")
