"""Writes to a run's log: what the scripts get, and what their replies mean."""

import time
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from ...metrics.catalog import APPEND_SECONDS
from ..errors import (
    KeyReused,
    LogFull,
    NotReplicated,
    RunEnded,
    StoreUnavailable,
    StreamingError,
    UnexpectedSequence,
    UnsupportedServer,
)
from ..event import timestamp_now
from ..event_id import EventId
from ..new_event import Append, Appended, check_append, check_range
from ..redis.acknowledgement import Unacknowledged, acknowledged
from ..redis.connection import Argument, Command, Reply
from ..redis.engine import Engine
from ..redis.scripts import Connection, Script
from ..redis.server import TOO_OLD
from .redis_keys import log_key, redis_keys

HERE = Path(__file__).parent


class LogWriter:
    """Appends to the logs, over a connection that all callers share.

    Args:
        engine: the Redis that has the logs.
        connection: its `writes`; or its `shared`, for what replicas need not acknowledge.
        maxlen: about how many entries a log retains.
        ended_ttl_seconds: how long Redis keeps a log after a terminal event.
        idle_ttl_seconds: how long Redis keeps a log after its last append, while not ended.
    """

    def __init__(
        self,
        engine: Engine,
        connection: Connection,
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
        self._engine = engine
        self._must_confirm = engine.ack_replicas > 0 and connection is engine.writes
        self._append = Script(connection, HERE / "append.lua", derives_keys=True)
        # Nobody is told that it is done. A server that has lost the event ends the run again.
        self._mark_lost = Script(engine.shared, HERE / "mark_lost.lua", keys=3, derives_keys=True)
        self._all_keys = Script(connection, HERE / "all_keys.lua", keys=3, derives_keys=True)
        self._touch = Script(connection, HERE / "touch.lua", keys=1)
        self._ended_ttl_ms = str(ended_ttl_seconds * 1000)
        self._limits = str(maxlen), self._ended_ttl_ms, str(idle_ttl_seconds * 1000)

    def append(self, append: Append) -> Appended:
        """Carry out one append. See `EventStore.append` for the errors."""
        check_append(len(append.new_events), *append[2:])
        arguments = self._arguments(append, timestamp_now())
        reply = self._run(self._append, append.run_id, *arguments)
        [outcome] = self._outcomes([append], [reply])
        if isinstance(outcome, StreamingError):
            raise outcome
        return outcome

    def append_each(self, appends: Sequence[Append]) -> list[Appended | StreamingError]:
        """Carry out several appends in one round trip. Return the result or error of each.

        Raises StoreUnavailable if no append was answered, all for the same reason.
        """
        timestamp = timestamp_now()
        calls = [self._arguments(append, timestamp) for append in appends]
        began = time.monotonic()
        try:
            replies = self._append.run_each(calls)
        except StoreUnavailable:
            for append in appends:
                self._interrupted(append.run_id)
            raise
        APPEND_SECONDS.observe(time.monotonic() - began, len(appends))
        return self._outcomes(appends, replies)

    def mark_lost(self, run_id: str, last_id: EventId, watched: bool) -> bool:
        """End a run whose lease has expired. See `EventStore.mark_lost`."""
        marked = self._run(
            self._mark_lost,
            run_id,
            *redis_keys(run_id),
            str(last_id),
            timestamp_now(),
            self._ended_ttl_ms,
            int(watched),
        )
        return bool(marked)

    def set_expire(self, run_id: str, ttl_seconds: int) -> bool:
        """Keep a log for so many seconds. Return whether there is one."""
        reply = self._all_keys.run(*redis_keys(run_id), "EXPIRE", ttl_seconds)
        return bool(acknowledged(reply))

    def delete(self, run_id: str) -> bool:
        """Delete a log and its idempotency keys. Return whether there was one."""
        existed = bool(acknowledged(self._all_keys.run(*redis_keys(run_id), "DEL")))
        # If there is none, it may have been deleted a moment ago.
        if not existed and self._must_confirm:
            [reason] = self._unconfirmed([(run_id,)])
            if reason:
                raise NotReplicated(reason)
        return existed

    def _arguments(self, append: Append, timestamp: str) -> Command:
        run_id, new_events, idempotency_key, expected_sequence, lease_seconds = append
        if lease_seconds and (server := self._engine.known_server_of(log_key(run_id))):
            server.availability.watch()
        fields: Iterable[Argument] = chain.from_iterable(new_events)
        # While the slot of a run moves, its keys may be on two nodes, and a key that does not exist
        # counts as one that is elsewhere. So no append names more keys than it needs.
        keys = (3, *redis_keys(run_id)) if idempotency_key else (1, log_key(run_id))
        return (
            *keys,
            *self._limits,
            timestamp,
            idempotency_key or b"",
            expected_sequence or b"",
            lease_seconds or b"",
            *fields,
        )

    def _outcomes(
        self, appends: Sequence[Append], replies: Sequence[Reply]
    ) -> list[Appended | StreamingError]:
        outcomes = [self._outcome(*each) for each in zip(appends, replies, strict=True)]
        if self._must_confirm:
            # WAIT has said nothing of repeats: the script wrote nothing.
            repeats = {
                at: (append.run_id, append.idempotency_key or b"", str(outcome.first_id))
                for at, (append, outcome) in enumerate(zip(appends, outcomes, strict=True))
                if isinstance(outcome, Appended) and outcome.repeated
            }
            reasons = self._unconfirmed(list(repeats.values())) if repeats else []
            for at, reason in zip(repeats, reasons, strict=True):
                if reason:
                    outcomes[at] = NotReplicated(reason)
        return outcomes

    def _unconfirmed(self, written: Sequence[tuple[str, *tuple[Argument, ...]]]) -> list[str]:
        """Wait until replicas have all that was written to logs before.

        Each item is a run id, behind which may stand what `touch.lua` looks for. Returns for each
        why replicas may not have it, '' if they have.
        """
        calls = [(redis_keys(run_id)[1], *found) for run_id, *found in written]
        try:
            replies = self._touch.run_each(calls)
        except StoreUnavailable as error:
            replies = [error] * len(calls)
        return [_reason_against(each) for each in replies]

    def _outcome(self, append: Append, reply: Reply) -> Appended | StreamingError:
        if isinstance(reply, StreamingError):
            if isinstance(reply, StoreUnavailable):
                self._interrupted(append.run_id)
            return reply
        try:
            if not isinstance(reply, Unacknowledged):
                return _appended(append, reply)
            _appended(append, reply.reply)  # raises if nothing was stored
            return NotReplicated(reply.reason)
        except StreamingError as error:
            return error

    def _run(self, script: Script, run_id: str, *arguments: Argument) -> Reply:
        try:
            return script.run(*arguments)
        except StoreUnavailable:
            self._interrupted(run_id)
            raise

    def _interrupted(self, run_id: str) -> None:
        """Note that the producers of a run could not write."""
        server = self._engine.known_server_of(log_key(run_id))
        if server is not None:  # else the node that it will have begins to count then
            server.availability.interrupted()


def _reason_against(reply: Reply) -> str:
    """Return what the reply to `touch.lua` says against it, '' if replicas have all."""
    if isinstance(reply, Unacknowledged):
        return reply.reason
    if isinstance(reply, StreamingError):
        return str(reply)
    return "" if reply else "the server that has the run now does not have what was repeated"


def _appended(append: Append, reply: Reply) -> Appended:
    """Return what `append.lua` appended, or raise the error for which it refused to."""
    status, value = reply[:2]
    if status in (b"added", b"repeated"):
        sequence, timestamp = reply[2:4]
        first_id, repeated = EventId.from_redis(value), status == b"repeated"
        length, when = len(append.new_events), timestamp.decode()
        if not repeated:
            return Appended(first_id, sequence, length, False, when)
        return Appended(first_id, sequence, length, True, when, reply[4])
    if status == b"key reused":
        raise KeyReused(f"the idempotency key was used for event {value.decode()}")
    if status == b"unexpected":
        raise UnexpectedSequence(value)
    if status == b"ended":
        raise RunEnded(f"run {append.run_id} ended with event {value.decode()}")
    if status == b"full":
        raise LogFull(
            f"run {append.run_id} takes no more events: its log has the id {value.decode()}, "
            "after which ids or sequences are not exact numbers"
        )
    raise UnsupportedServer(TOO_OLD)
