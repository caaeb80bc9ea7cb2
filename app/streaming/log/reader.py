"""Reads of a run's log: its events by cursor, in pages and as they come, and its state."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ..backoff import Turns
from ..errors import InvalidInput, NotALog, StoreUnavailable
from ..event import Event, check_run_id
from ..event_id import LAST, ZERO, EventId
from ..redis.connection import Reply, checked, is_wrong_type
from ..redis.engine import Engine
from ..redis.scripts import Script
from ..redis.server import MAX_BLOCK_SECONDS, Server
from .continuity import Mark, Stretch, is_at, locate
from .lease import Leases
from .log_state import NO_LOG, LogState
from .position import Between, Position
from .redis_keys import log_key, run_id_of
from .replies import (
    has_names,
    parse_event,
    parse_log_state,
    parse_mark,
    parse_run,
    parse_streams,
)
from .run import Run
from .sequence import Uncounted, find_sequence

HERE = Path(__file__).parent

# How many entries the first command of a scan reads. The next ones read as many as the size of the
# entries before allows, but the next entries may be larger than those.
INITIAL_COUNT = 32
MAX_GROWTH = 4
MAX_READ_COUNT = 256
MAX_READ_BYTES = 256 * 1024
# What an entry takes in a reply beside its fields, about.
ENTRY_OVERHEAD = 200

# How many runs are described by one round trip. Each may have two events of the largest size.
MAX_DESCRIBED = 20

# In how many logs a client is located by one round trip. Each may have one large event.
MAX_LOCATED = 40
_DESCRIBE = ("XINFO", "STREAM"), ("TTL",)

# A log from which others delete all the time is not searched for ever.
MAX_SEARCHES = 10

# How many keys Redis looks at in one step of a walk.
SCANNED_KEYS = 1000

MAX_SCANNED_ENTRIES = 10_000
MAX_SCANNED_BYTES = 64 * 1024 * 1024
MAX_PAGE_BYTES = 16 * 1024 * 1024


Located = tuple[list[Stretch], LogState]


class FoundLog(NamedTuple):
    """What `read.lua` replied for a client with a cursor."""

    run_id: str
    cursor: EventId | None
    reply: Reply


class Page(NamedTuple):
    """Some events of a log, where the next page goes on (None at the end), and whether it ended.

    `ended` says whether the run had ended before the page was read.
    """

    events: list[Event]
    next: EventId | None
    ended: bool

    @property
    def is_last(self) -> bool:
        """Whether nothing follows, now or later."""
        return self.next is None and self.ended


def next_count(size: int, entries: int) -> int:
    """Return how many entries to read next, if the last `entries` had `size` bytes together."""
    return max(1, min(MAX_READ_COUNT, MAX_GROWTH * entries, MAX_READ_BYTES * entries // size))


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise InvalidInput("limit", "must be 0 or more, or None")


class LogReader:
    """Reads the logs. A read that finds a lease expired ends the run first.

    Every method raises InvalidInput for an argument that is not allowed, NotALog if the run's
    key in Redis does not hold a stream, StoreUnavailable if Redis cannot serve, and
    ReentrantCall in a signal handler that has interrupted a call.
    """

    def __init__(self, engine: Engine, leases: Leases):
        self.engine = engine
        self._pool = engine.pool
        self._read_log = self.script(HERE / "read.lua", keys=1, reads=True)
        self._read_mark = self.script(HERE / "mark.lua", keys=1, reads=True)
        self.leases = leases

    def script(self, file: Path, keys: int, *, reads: bool = False) -> Script:
        """Return a script that runs over the connections of reads. For `reads` see `Script`."""
        return Script(self._pool, file, keys, reads=reads)

    def get_events(
        self, run_id: int | str, *, limit: int | None = None, descending: bool = False
    ) -> list[Event]:
        """Return the events of a run in the order of the log, at most `limit` of them."""
        _check_limit(limit)
        self.state(check_run_id(run_id))
        return list(islice(self._scan(str(run_id), descending=descending), limit))

    def get_events_after(
        self, run_id: int | str, last_id: str, *, limit: int | None = None
    ) -> list[Event]:
        """Return the events after the id `last_id`, at most `limit` of them."""
        _check_limit(limit)
        after = EventId.parse(last_id, "last_id")
        self.state(check_run_id(run_id))
        return list(islice(self._scan(str(run_id), after), limit))

    def page(
        self,
        run_id: int | str,
        *,
        after: EventId | None = None,
        before: EventId | None = None,
        from_sequence: int | None = None,
        descending: bool = False,
        limit: int = 100,
        categories: Sequence[str] = (),
        actions: Sequence[str] = (),
    ) -> Page:
        """Return up to `limit` events that lie strictly between two ids and pass a filter.

        With `from_sequence` there are none with a lower sequence.

        A page can be shorter than `limit` before the end of the log: it scans up to
        MAX_SCANNED_ENTRIES entries or about MAX_SCANNED_BYTES, and holds about MAX_PAGE_BYTES. Its
        `next` is the `after` of the following page, or the `before` when descending.
        """
        run_id = check_run_id(run_id)
        ended = self.state(run_id).ended  # ends the run if its lease has expired
        if from_sequence is not None:
            way, state = self.locate_sequence(run_id, from_sequence)
            if from_sequence > state.last_sequence:
                return Page([], None, ended)
            after = max(after or ZERO, way[-1].end.id)
        found: list[Event] = []
        accepted = frozenset(categories), frozenset(actions)
        size, scanned, scanned_size, position = 0, 0, 0, None
        turns = Turns()
        for entry in self._scan_entries(run_id, after, before, descending):
            if (
                len(found) == limit
                or size > MAX_PAGE_BYTES
                or scanned == MAX_SCANNED_ENTRIES
                or scanned_size > MAX_SCANNED_BYTES
            ):
                return Page(found, position, ended)
            position, scanned = EventId.from_redis(entry[0]), scanned + 1
            scanned_size += (entry_size := sum(map(len, entry[1])))
            if has_names(entry, *accepted):
                turns.spend(entry_size)
                event = parse_event(run_id, entry)
                found.append(event)
                size += len(event.data_json) + len(event.source_json)
        return Page(found, None, ended)

    def state(self, run_id: int | str, *, ttl: bool = False) -> LogState:
        """Return the state of a run's log, after ending the run if its lease has expired.

        Without a log it is NO_LOG. With `ttl` the state says how long Redis keeps the log.
        """
        run_id = check_run_id(run_id)
        state = self._state(run_id, ttl)
        return self._state(run_id, ttl) if self.leases.end_if_lost(run_id, state) else state

    def run(self, run_id: int | str) -> Run | None:
        """Return what is known of a run as a whole, as `state` does; None without a log."""
        run_id = check_run_id(run_id)
        found, state = self._inspect(run_id, ttl=True)
        if self.leases.end_if_lost(run_id, state):
            found, state = self._inspect(run_id, ttl=True)
        return self._run(run_id, found, state) if state.exists else None

    def describe(self, run_ids: Sequence[str]) -> list[Run | StoreUnavailable | None]:
        """Return what is known of several runs; None for one without a log.

        It is None too if the run's key in Redis holds something else. For a run that only some node
        of a cluster could tell of, and does not, it is the error.
        """
        described: list[Run | StoreUnavailable | None] = []
        for first in range(0, len(run_ids), MAX_DESCRIBED):
            some = run_ids[first : first + MAX_DESCRIBED]
            commands = [(*verb, log_key(run_id)) for run_id in some for verb in _DESCRIBE]
            replies = iter(self._pool.call_all(*commands))
            for run_id, stream, ttl in zip(some, replies, replies, strict=True):
                if isinstance(stream, StoreUnavailable):
                    described.append(stream)
                    continue
                if is_wrong_type(stream):
                    described.append(None)
                    continue
                state = parse_log_state(stream, checked(ttl))
                if self.leases.end_if_lost(run_id, state):
                    described.append(self.run(run_id))
                else:
                    described.append(parse_run(run_id, stream, state) if state.exists else None)
        return described

    def last_ids(self, run_ids: Sequence[str]) -> list[EventId | StoreUnavailable | None]:
        """Return the id of the last retained event of several runs, None if there is none.

        For a run that only some node of a cluster could tell of, and does not, it is the error.
        """
        commands = [("XREVRANGE", log_key(each), "+", "-", "COUNT", 1) for each in run_ids]
        replies = self._pool.call_all(*commands)
        return [
            reply
            if isinstance(reply, StoreUnavailable)
            else (EventId.from_redis(reply[0][0]) if type(reply) is list and reply else None)
            for reply in replies
        ]

    def scan_run_ids(self) -> Iterator[list[str]]:
        """Yield the ids of all runs that have keys, some at a time; one may come twice.

        Redis walks through all of its keys for it, a part for each list. What a node of a cluster
        has that does not answer is left out. Raises StoreUnavailable if none answers.
        """
        failures: list[StoreUnavailable] = []
        servers = self.engine.servers()
        for server in servers:
            try:
                yield from _scan_run_ids(server)
            except StoreUnavailable as error:
                failures.append(error)
        if len(failures) == len(servers):
            raise failures[0]

    def states(self, run_ids: Sequence[str]) -> list[LogState | StoreUnavailable | None]:
        """Return the states of several logs in one round trip, None for a key without a log.

        For a log that only some node of a cluster could tell of, and does not, it is the error.
        """
        commands = (("XINFO", "STREAM", log_key(run_id)) for run_id in run_ids)
        states = [_state_or_error(reply) for reply in self._pool.call_all(*commands)]
        unknown = [at for at, state in enumerate(states) if _lacks_epoch(state)]
        calls = [(log_key(run_ids[at]), "-", 0) for at in unknown]
        for at, reply in zip(unknown, self._read_log.run_each(calls) if calls else (), strict=True):
            if isinstance(reply, StoreUnavailable):
                states[at] = reply
            else:
                states[at] = None if isinstance(reply, NotALog) else _parse_read(reply)[1]
        return states

    def entries(self, run_id: str, after: EventId, upto: EventId, count: int) -> list[Reply]:
        """Return up to `count` raw entries of `after` < id <= `upto`."""
        if after == LAST:
            return []
        first, last = f"({after}", str(upto)
        entries = checked(self._pool.call("XRANGE", log_key(run_id), first, last, "COUNT", count))
        return list(entries)

    def entries_after(
        self, run_id: str, position: Position, upto: EventId, count: int
    ) -> tuple[list[Reply], bool]:
        """Return what `entries` does, and whether the position is certainly one of this log.

        So it is if its own entry is there. A position that has none is taken for one.
        """
        if not position.is_entry or position.id == LAST:
            return self.entries(run_id, position.id, upto, count), True
        key, first = log_key(run_id), f"({position.id}"
        # In this order: an entry that is there after the others were read was there before too.
        entries, own = self._pool.call_all(
            ("XRANGE", key, first, str(upto), "COUNT", count),
            self._read_mark.command(key, str(position.id)),
        )
        return list(checked(entries)), _is_own(position, own)

    def are_here(
        self, positions: Sequence[tuple[str, Position]]
    ) -> list[bool | NotALog | StoreUnavailable]:
        """Return for positions of several runs whether each is certainly one of the run's log.

        They are entries' positions. Only Redis is asked: where it has less of a log, or none, what
        is not there may be in the archive. NotALog names the run. StoreUnavailable is for a log
        that only some node of a cluster could tell of, and does not.
        """
        if not positions:
            return []
        calls = [(log_key(run_id), str(position.id)) for run_id, position in positions]
        return [
            NotALog(f"run {run_id}: {reply}")
            if isinstance(reply, NotALog)
            else (reply if isinstance(reply, StoreUnavailable) else _is_own(position, reply))
            for (run_id, position), reply in zip(
                positions, self._read_mark.run_each(calls), strict=True
            )
        ]

    def read(self, run_id: str, start: EventId, count: int) -> tuple[list[Reply], LogState]:
        """Return up to `count` raw entries from an id on, and the log's state at that moment.

        If the run's lease has expired, the run is ended first.
        """
        entries, state = self._read(run_id, start, count)
        if self.leases.end_if_lost(run_id, state):
            return self._read(run_id, start, count)
        return entries, state

    def read_in_redis(
        self, run_id: str, start: EventId, count: int
    ) -> tuple[list[Reply], LogState]:
        """Return what `read` does, of what Redis has of the log."""
        entries, state = self._read_in_redis(run_id, start, count)
        if self.leases.end_if_lost(run_id, state):
            return self._read_in_redis(run_id, start, count)
        return entries, state

    def locate(self, run_id: str, cursor: EventId) -> tuple[list[Stretch], LogState]:
        """Return the way to where a client stands that knows only an id, and the log's state."""
        entries, state = self.read(run_id, cursor, 1)
        return locate(cursor, [parse_mark(entry) for entry in entries], state), state

    def locate_each(
        self, cursors: Sequence[tuple[str, EventId | None]]
    ) -> list[Located | NotALog | StoreUnavailable]:
        """Return what `locate` does for several runs, in a few round trips.

        Without an id it is the way to the beginning of what the log retains. For a run that cannot
        be read now it is the error.
        """
        located: list[Located | NotALog | StoreUnavailable] = []
        for first in range(0, len(cursors), MAX_LOCATED):
            some = cursors[first : first + MAX_LOCATED]
            calls = [(log_key(run_id), *map(str, _from(cursor))) for run_id, cursor in some]
            replies = self._read_log.run_each(calls)
            found = zip(some, replies, strict=True)
            located += self._locate_all([FoundLog(*cursor, reply) for cursor, reply in found])
        return located

    def _locate_all(self, found: Sequence[FoundLog]) -> list[Located | NotALog | StoreUnavailable]:
        return [self._try_to_locate(each) for each in found]

    def _try_to_locate(self, found: FoundLog) -> Located | NotALog | StoreUnavailable:
        try:
            return self._locate(*found)
        except NotALog as error:
            return NotALog(f"run {found.run_id}: {error}")
        except StoreUnavailable as error:  # of the archive, or of a node of a cluster
            return error

    def _locate(self, run_id: str, cursor: EventId | None, reply: Reply) -> Located:
        start, count = _from(cursor)
        entries, state = self._whole(run_id, start, *_parse_read(reply), count)
        if self.leases.end_if_lost(run_id, state):
            entries, state = self._read(run_id, start, count)
        if cursor is None:
            return [Stretch(state.beginning, state.beginning, None)], state
        return locate(cursor, [parse_mark(entry) for entry in entries], state), state

    def before_tail(self, run_id: str, count: int) -> tuple[Position, LogState]:
        """Return the position after which the last `count` entries follow, and the log's state.

        With fewer entries it is the beginning of the log. More may come while they are counted.
        """
        state = self.state(run_id)
        while True:
            ids = self._scan_entries(run_id, descending=True)
            upto_end = (entry for entry in ids if EventId.from_redis(entry[0]) <= state.last_id)
            entry = next(islice(upto_end, count, None), None)
            before, state = state, self.state(run_id)
            if before.version != state.version:
                continue  # what was counted is gone: entries of it, or the log
            mark = parse_mark(entry) if entry else None
            if mark is None or state.first_id is None or mark.cursor < state.first_id:
                return state.beginning, state
            return Position(state.epoch, mark.cursor, mark.sequence), state

    def locate_sequence(self, run_id: str, sequence: int) -> tuple[list[Stretch], LogState]:
        """Return the way to before the event with a sequence, and the log's state.

        If the event is missing, the way has a gap to before the next one. Behind the end of the
        log the way leads to the end.
        """
        state = self.state(run_id)
        for _ in range(MAX_SEARCHES):
            position = self._before_sequence(run_id, sequence, state)
            before, state = state, self.state(run_id)
            if _is_same(before, state):
                break  # else what was found may be of another log, or have gone
        else:
            position = state.beginning
        if state.first_id is not None and position.id < state.first_id.before():
            position = state.beginning  # trimmed meanwhile
        if position.sequence is None or position.sequence < sequence:
            return [Stretch(position, position, None)], state
        return [Stretch(Position(state.epoch, ZERO, sequence - 1), position, "gap")], state

    def _before_sequence(self, run_id: str, sequence: int, state: LogState) -> Position:
        """Return the position before the first retained entry with at least this sequence."""
        if sequence > state.last_sequence:
            return state.end

        def read(after: EventId, upto: EventId, count: int) -> list[Mark]:
            return [parse_mark(entry) for entry in self.entries(run_id, after, upto, count)]

        try:
            mark = find_sequence(sequence, state, read)
        except Uncounted:
            return self.before_tail(run_id, state.last_sequence - sequence + 1)[0]
        if mark is None:
            return state.end
        return Between(state.epoch, mark.cursor.before(), (mark.sequence or 1) - 1)

    def read_blocking(
        self, run_id: str, position: Position, left: float | None
    ) -> tuple[list[Reply], bool]:
        """Return the raw entries after a position, as soon as there are any.

        The second value says, as in `entries_after`, whether the position is of this log. Waits
        for up to `left` seconds (None: no limit), but not longer than MAX_BLOCK_SECONDS.
        """
        blocking = left is None or left > 0
        block_seconds = MAX_BLOCK_SECONDS if left is None else min(left, MAX_BLOCK_SECONDS)
        block_ms = max(1, int(1000 * block_seconds))
        key, after = log_key(run_id), str(position.id)
        block = ("BLOCK", block_ms) if blocking else ()
        reply, *own = self.engine.blocking.call_all(
            ("XREAD", "COUNT", MAX_READ_COUNT, *block, "STREAMS", key, after),
            *((self._read_mark.command(key, after),) if position.is_entry else ()),
        )
        is_here = all(_is_own(position, each) for each in own)
        for _, entries in parse_streams(checked(reply)):
            return list(entries), is_here
        return [], is_here

    # Inside

    def _state(self, run_id: str, ttl: bool = False) -> LogState:
        return self._inspect(run_id, ttl)[1]

    def _inspect(self, run_id: str, ttl: bool) -> tuple[Reply, LogState]:
        """Return what XINFO STREAM tells of a log, and the state that it means."""
        stream, *seconds = self.engine.shared.call_all(
            ("XINFO", "STREAM", log_key(run_id)), *((("TTL", log_key(run_id)),) if ttl else ())
        )
        state = self._with_epoch(run_id, parse_log_state(stream, *seconds))
        return stream, self._whole_state(run_id, state)

    def _run(self, run_id: str, found: Reply, state: LogState) -> Run:
        return parse_run(run_id, found, state)

    def _with_epoch(self, run_id: str, state: LogState) -> LogState:
        """Return a state with its epoch, if its last entry does not say it."""
        if not _lacks_epoch(state):
            return state
        _, known = self._read_in_redis(run_id, ZERO, 0)
        return replace(known, ttl=state.ttl)

    def _read(self, run_id: str, start: EventId, count: int) -> tuple[list[Reply], LogState]:
        return self._read_in_redis(run_id, start, count)

    def _read_in_redis(
        self, run_id: str, start: EventId, count: int
    ) -> tuple[list[Reply], LogState]:
        return _parse_read(self._read_log.run(log_key(run_id), str(start), count))

    # Of logs of which Redis has not all; see WholeLogReader.

    def _whole(
        self, run_id: str, start: EventId, entries: list[Reply], state: LogState, count: int
    ) -> tuple[list[Reply], LogState]:
        """Complete what was read of Redis: up to `count` entries from an id on, and the state."""
        return entries, state

    def _whole_state(self, run_id: str, state: LogState) -> LogState:
        """Complete the state that a log has in Redis."""
        return state

    def _scan(
        self,
        run_id: str,
        after: EventId | None = None,
        before: EventId | None = None,
        descending: bool = False,
    ) -> Iterator[Event]:
        """Yield every event strictly between two ids. Each page is read when it is needed."""
        for entry in self._scan_entries(run_id, after, before, descending):
            yield parse_event(run_id, entry)

    def _scan_entries(
        self,
        run_id: str,
        after: EventId | None = None,
        before: EventId | None = None,
        descending: bool = False,
    ) -> Iterator[Reply]:
        for entries in self.scan_pages(run_id, after, before, descending):
            yield from entries

    def scan_pages(
        self,
        run_id: str,
        after: EventId | None = None,
        before: EventId | None = None,
        descending: bool = False,
    ) -> Iterator[list[Reply]]:
        """Yield the raw entries strictly between two ids. Each page is read when it is needed."""
        if after == LAST or before == ZERO:
            return  # there is no id beyond, and Redis refuses such a command
        command = "XREVRANGE" if descending else "XRANGE"
        lower, upper = f"({after}" if after else "-", f"({before}" if before else "+"
        count = INITIAL_COUNT
        while True:
            start, stop = (upper, lower) if descending else (lower, upper)
            entries = checked(
                self._pool.call(command, log_key(run_id), start, stop, "COUNT", count)
            )
            yield entries
            if len(entries) < count:
                return
            last_id, _ = entries[-1]
            if descending:
                upper = f"({last_id.decode()}"
            else:
                lower = f"({last_id.decode()}"
            size = sum(sum(map(len, fields)) + ENTRY_OVERHEAD for _, fields in entries)
            count = next_count(size, len(entries))


def _scan_run_ids(server: Server) -> Iterator[list[str]]:
    cursor: bytes = b"0"
    while True:
        scan = "SCAN", cursor, "MATCH", log_key("*"), "COUNT", SCANNED_KEYS
        cursor, keys = checked(server.pool.call(*scan))
        if run_ids := [run_id for key in keys if (run_id := run_id_of(key)) is not None]:
            yield run_ids
        if int(cursor) == 0:
            return


def _from(cursor: EventId | None) -> tuple[EventId, int]:
    """Return from which id on a log is read to locate a client, and how many entries."""
    return (ZERO, 0) if cursor is None else (cursor, 1)


def _is_own(position: Position, reply: Reply) -> bool:
    """Return whether `mark.lua` has returned the entry of a position."""
    return type(reply) is list and is_at(position, [parse_mark(reply)] if reply else [])


def _is_same(before: LogState, now: LogState) -> bool:
    """Return whether nothing has gone from a log, be it to the archive."""
    return (before.version, before.archived_upto) == (now.version, now.archived_upto)


def _state_or_error(reply: Reply) -> LogState | StoreUnavailable | None:
    if is_wrong_type(reply):
        return None
    try:
        return parse_log_state(reply)
    except StoreUnavailable as error:
        return error


def _lacks_epoch(state: LogState | StoreUnavailable | None) -> bool:
    """Return whether a log exists whose last entry does not say the epoch."""
    return isinstance(state, LogState) and state.exists and not state.epoch


def _parse_read(reply: Reply) -> tuple[list[Reply], LogState]:
    """Return the entries and the state that `read.lua` returned; raises an error it was given."""
    if isinstance(reply, Exception):
        raise reply
    if not reply:
        return [], NO_LOG
    stream, epoch, entries = reply
    has_none = epoch == b"none"
    known = b"" if has_none else epoch
    return entries, replace(parse_log_state(stream), epoch=known, has_no_epoch=has_none)
