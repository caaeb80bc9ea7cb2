"""The runs that the examples of the description are about, in a Redis."""

import re
import time
from typing import Any

import redis

from app.routes.description.example_runs import (
    DELETED,
    ENDED_EVENTS,
    EVENTS,
    GREATEST_ID,
    LONG,
    LONG_LENGTH,
    TRIMMED,
    TRIMMED_EVENT,
    WITH_GREATEST_ID,
    WITH_KEYS,
    WITH_TEXT,
)
from app.streaming.event_store import EventStore
from app.streaming.redis.redis_url import make_client
from tests.servers import wait_until

# The log of revocations, which a gateway follows, and the time of the next census: one that goes
# on meanwhile would tell that the logs are gone.
KEPT = (b"tailrace:revocations", b"tailrace:{runs}:turn")


class Runs:
    """They are written anew for each example. Their ids are then not those of the document."""

    def __init__(self, redis_url: str) -> None:
        self._client: redis.Redis = make_client(redis_url)
        self._store = EventStore(redis_url)
        self._documented: dict[str, str] = {}

    def renew(self, *, full: bool = True) -> None:
        """Delete all logs but that of revocations, and write the runs anew.

        Without `full`, there is no log with the greatest id. Another program writes that, so a
        gateway may find it at any time, and tell that the run began.
        """
        for key in self._client.scan_iter():
            if key not in KEPT:
                self._client.delete(key)
        add, stream = self._store.add, {"event_category": "llm", "event_action": "stream"}
        add(DELETED["run_id"], "lifecycle", "started")
        self._store.delete(DELETED["run_id"])
        self._store.add_many(LONG["run_id"], [stream] * LONG_LENGTH)
        add(WITH_KEYS["run_id"], "tool", "called", idempotency_key="step-7")
        add(WITH_KEYS["run_id"], "request", "cancel", idempotency_key="ask-1")
        self._client.set(f"run:{WITH_TEXT['run_id']}:events", "no log")
        if full:
            self._client.xadd(f"run:{WITH_GREATEST_ID['run_id']}:events", {"a": 1}, GREATEST_ID)
        self._documented = {}
        self._store.add_many(TRIMMED["run_id"], [stream] * 2)
        for event in (TRIMMED_EVENT, *EVENTS, *ENDED_EVENTS):
            self._documented[self._new_id_of(event)] = event["id"]
        self._client.xtrim(f"run:{TRIMMED['run_id']}:events", maxlen=1, approximate=False)

    def _new_id_of(self, event: dict[str, Any]) -> str:
        """Append an event, with an id that no event of another run has."""
        now = time.time_ns() // 10**6
        wait_until(lambda: time.time_ns() // 10**6 > now, "a millisecond is over")
        return self._store.add(event["run_id"], *event["event"].values(), event["data"])

    def with_real_ids(self, text: str) -> str:
        """Return a text with the ids of the runs in place of those of the document."""
        for real, documented in self._documented.items():
            text = text.replace(documented, real)
        return text

    def as_shown(self, text: str, *, ids: bool = True) -> str:
        """Return a text as the document would show it, without what differs each time.

        Without `ids`, those of the runs too are left out.
        """
        for real, documented in self._documented.items():
            text = text.replace(real, documented)
        known = self._documented.values() if ids else ()
        for pattern, replacement in (
            (r"\b\d{13}-\d+\b", lambda found: found[0] if found[0] in known else "ID"),
            (r"\bm1\.[\w-]+", "CURSOR"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME"),
            (r"(?m)^retry: \d+$", "retry: MS"),
            (r'"(ttl|expires_in)": ?\d+', r'"\1": SECONDS'),
        ):
            text = re.sub(pattern, replacement, text)
        return text
