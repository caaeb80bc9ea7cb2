"""Writing a run's log: what an append may carry, and what the scripts make of it."""

import math
import time
from collections.abc import Sequence
from itertools import chain
from typing import Any

from ..errors import (
    KeyReused,
    RunEnded,
    ServerTooOld,
    StoreUnavailable,
    StreamingError,
    UnexpectedSequence,
)
from ..event import timestamp_now
from ..event_id import EventId
from ..new_event import Append, Appended, check_append, check_range
from .redis_keys import redis_keys
from .scripts import Script
from .shared_connection import SharedConnection

TOO_OLD = "the server is too old: Redis 7.0 or newer, or Valkey, is needed"


class LogWriter:
    """Appends to the logs of one server, over one shared connection, within their limits."""

    def __init__(
        self,
        shared: SharedConnection,
        *,
        maxlen: int,
        ended_ttl_seconds: int,
        idle_ttl_seconds: int,
    ):
        for name, value in (
            ("maxlen", maxlen),
            ("ended_ttl_seconds", ended_ttl_seconds),
            ("idle_ttl_seconds", idle_ttl_seconds),
        ):
            check_range(name, value)
        self._append = Script(shared, "append.lua", keys=3)
        self._mark_lost = Script(shared, "mark_lost.lua", keys=3)
        self._ended_ttl_ms = str(ended_ttl_seconds * 1000)
        self._limits = str(maxlen), self._ended_ttl_ms, str(idle_ttl_seconds * 1000)
        self.last_refusal = -math.inf  # monotonic; the last write that Redis did not take

    def append(self, append: Append) -> Appended:
        """Carry out one append; for the errors see `EventStore.append`."""
        check_append(len(append.new_events), *append[2:])
        return _appended(append, self._run(self._append, *self._arguments(append, timestamp_now())))

    def append_each(self, appends: Sequence[Append]) -> list[Appended | StreamingError]:
        """Carry out some appends in one round trip, each for itself; its error is a value.

        Raises StoreUnavailable where the round trip came to nothing.
        """
        timestamp = timestamp_now()
        calls = [self._arguments(each, timestamp) for each in appends]
        try:
            replies = self._append.run_each(calls)
        except StoreUnavailable:
            self.last_refusal = time.monotonic()
            raise
        return [self._outcome(*each) for each in zip(appends, replies, strict=True)]

    def _arguments(self, append: Append, timestamp: str) -> tuple[Any, ...]:
        run_id, new_events, idempotency_key, expected_sequence, lease_seconds = append
        return (
            *redis_keys(run_id),
            *self._limits,
            timestamp,
            idempotency_key or b"",
            expected_sequence or b"",
            lease_seconds or b"",
            *chain.from_iterable(new_events),
        )

    def _outcome(self, append: Append, reply: Any) -> Appended | StreamingError:
        if isinstance(reply, StreamingError):
            if isinstance(reply, StoreUnavailable):
                self.last_refusal = time.monotonic()
            return reply
        try:
            return _appended(append, reply)
        except StreamingError as error:
            return error

    def mark_lost(self, run_id: str, last_id: EventId, watched: bool) -> bool:
        """End a run whose lease has run out; see `EventStore.mark_lost`."""
        lost = self._run(
            self._mark_lost,
            *redis_keys(run_id),
            str(last_id),
            timestamp_now(),
            self._ended_ttl_ms,
            int(watched),
        )
        return bool(lost)

    def _run(self, script: Script, *arguments: Any) -> Any:
        try:
            return script.run(*arguments)
        except StoreUnavailable:
            self.last_refusal = time.monotonic()
            raise


def _appended(append: Append, reply: Sequence[Any]) -> Appended:
    """What `append.lua` tells of an append; raises what it refused it for."""
    status, told = reply[:2]
    if status in (b"added", b"repeated"):
        _, _, sequence, timestamp = reply
        first_id, repeated = EventId.from_redis(told), status == b"repeated"
        return Appended(first_id, sequence, len(append.new_events), repeated, timestamp.decode())
    if status == b"key reused":
        raise KeyReused(f"the idempotency key was used for event {told.decode()}")
    if status == b"unexpected":
        raise UnexpectedSequence(told)
    if status == b"ended":
        raise RunEnded(f"run {append.run_id} ended with event {told.decode()}")
    raise ServerTooOld(TOO_OLD)
