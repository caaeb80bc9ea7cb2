"""What the contract test acts on: a gateway, its Redis, and the model of some runs."""

import itertools
import json
import re
import time
from functools import partial
from typing import Any

import redis

from tests.contract.model import Entry, Id, Log, Run, same
from tests.contract.wire import Answer, Http
from tests.servers import wait_until

PROBLEM = "application/problem+json"
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
MAX_TTL_ERROR = 5.0
MIN_LEASE_SECONDS = 1
MAX_LOST_SECONDS = 30.0

_numbers = itertools.count(1)


class World:
    """A gateway, its Redis, and the model of two runs that nobody else uses."""

    def __init__(self, port: int, client: redis.Redis):
        number = next(_numbers)
        self.http = Http(port)
        self.client = client
        self.runs = [Run(f"contract-{number}-{name}") for name in "ab"]

    def close(self) -> None:
        self.http.close()
        for run in self.runs:
            self.client.delete(*keys_of(run))

    def check_redis(self, run: Run) -> None:
        """Check that the model knows what Redis holds. Else the test itself is wrong."""
        log_key = keys_of(run)[0]
        if 0 in run.foreign:
            assert self.client.type(log_key) != b"stream"
        elif run.log is None:
            assert not self.client.exists(log_key)
        else:
            info = self.client.xinfo_stream(log_key)
            check_equal(info["entries-added"], run.log.added)
            check_equal(Id.of(info["last-generated-id"]), run.log.last_id)
            check_equal(Id.of(info["max-deleted-entry-id"]), run.log.deleted)
            retained = [Id.of(each) for each, _ in self.client.xrange(log_key)]
            check_equal(retained, [entry.id for entry in run.log.entries])

    def learn_entries(self, run: Run, first: Id, last: Id) -> list[Entry]:
        """Return the entries that Tailrace has just appended, as they are in Redis."""
        raw = self.client.xrange(keys_of(run)[0], str(first), str(last))
        return [appended_entry(Id.of(each), fields) for each, fields in raw]

    def check_lease(self, run: Run) -> None:
        """Check that a run whose lease is over is ended at a read, at the latest soon.

        For a longer lease the gateway must have been connected for that long.
        """
        if run.log and run.log.lease == MIN_LEASE_SECONDS and not run.is_full:
            wait_until(partial(self._is_ended, run), f"{run.id} is ended", MAX_LOST_SECONDS)

    def _is_ended(self, run: Run) -> bool:
        self.http.request("GET", f"/runs/{run.id}")
        self.end_if_lost(run)
        return run.log is not None and run.log.ended

    def end_if_lost(self, run: Run) -> None:
        """Let the model know if a read has ended a run whose lease is over."""
        log = run.log
        if log is None or log.lease is None:
            return
        last = log.entries[-1]
        over = log.last_id.ms / 1000 + log.lease
        found = self.client.xrevrange(keys_of(run)[0], count=1)
        if not found or Id.of(found[0][0]) == last.id:
            return  # or not yet: the gateway was not connected all the time, or was too busy
        assert time.time() > over, f"{run.id} was ended before its lease was over"
        lost = appended_entry(Id.of(found[0][0]), found[0][1])
        check_equal(lost.names, ("lifecycle", "lost"))
        check_same([lost.data, lost.source], [{"lease_seconds": log.lease}, None])
        check_equal(lost.sequence, log.added + 1)
        log.add(lost)
        log.appended(time.time())
        run.seen.append(lost.id)


def keys_of(run: Run) -> tuple[str, str, str]:
    """Return the keys of a run in Redis, as docs/runs-and-events.md names them."""
    log = f"run:{run.id}:events"
    return log, f"{{{log}}}:keys", f"{{{log}}}:key-order"


OPTIONAL = {"source", "lease_seconds", "epoch", "traceparent"}


def appended_entry(event_id: Id, raw: dict[bytes, bytes]) -> Entry:
    """Read an entry that Tailrace appended; check that it has the documented fields."""
    fields = {name.decode(): value.decode() for name, value in raw.items()}
    required = {"timestamp", "sequence", "event_category", "event_action", "data"}
    assert required <= fields.keys() <= required | OPTIONAL, fields
    check_timestamp(fields["timestamp"])
    assert "source" not in fields or fields["source"] != "null"
    return Entry(
        event_id,
        (fields["event_category"], fields["event_action"]),
        json.loads(fields["data"]),
        json.loads(fields.get("source", "null")),
        int(fields["sequence"]),
        fields["timestamp"],
        int(lease) if (lease := fields.get("lease_seconds", "")).isdigit() else None,
        traceparent=fields.get("traceparent"),
    )


def check_equal(found: object, expected: object) -> None:
    """Check that two values are equal, and say what they are if they are not."""
    assert found == expected, f"{found!r} is not {expected!r}"


def check_same(found: object, expected: object) -> None:
    """Check that two JSON values are the same, with the order of their members."""
    assert same(found, expected), f"{found!r} is not the same as {expected!r}"


def check_timestamp(text: str) -> None:
    """Check that a timestamp is the time of now, in UTC."""
    assert _TIMESTAMP.fullmatch(text), text
    assert time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() - 60)) <= text[:16]
    assert text[:16] <= time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() + 60))


def check_problem(answer: Answer, *statuses: int) -> dict[str, Any]:
    """Check that an answer is a problem document with one of some statuses; return it."""
    assert answer.status in statuses, (answer.status, statuses, answer.body)
    check_equal(answer.headers["Content-Type"], PROBLEM)
    problem: dict[str, Any] = answer.json
    check_equal(problem["status"], answer.status)
    check_equal(problem["type"], "about:blank")
    assert problem["title"]
    assert problem["detail"]
    assert all(error.keys() == {"field", "detail"} for error in problem.get("errors", []))
    return problem


def check_ttl(log: Log, ttl: int | None) -> None:
    if log.expires_at is None or ttl is None:
        assert ttl is log.expires_at, (ttl, log.expires_at)
    else:
        assert abs(log.expires_at - time.time() - ttl) < MAX_TTL_ERROR, (ttl, log.expires_at)
