"""The operations that read a run: its state, pages of its history, and streams."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from tests.contract.frames import FrameChecks
from tests.contract.model import Entry, Id, Log, Run
from tests.contract.notices import check_notices
from tests.contract.wire import JSON_LINES, Frame
from tests.contract.world import (
    World,
    check_equal,
    check_problem,
    check_same,
    check_ttl,
)


@dataclass(frozen=True)
class Filter:
    """The names that a reader asks for; empty ones do not count, and none means all."""

    categories: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()

    def passes(self, entry: Entry) -> bool:
        asked = self.categories, self.actions
        return all(
            not any(values) or (name is not None and name != "" and name in values)
            for name, values in zip(entry.names, asked, strict=True)
        )

    @property
    def query(self) -> list[tuple[str, str]]:
        categories = [("category", value) for value in self.categories]
        return categories + [("action", value) for value in self.actions]


def read_state(world: World, run: Run, method: str) -> None:
    answer = world.http.request(method, f"/runs/{run.id}")
    world.end_if_lost(run)
    log = run.log
    expected = 409 if 0 in run.foreign else 404 if log is None else 200
    check_equal(answer.status, expected)
    if method == "HEAD":
        check_equal(answer.body, b"")
    elif log is None:
        check_problem(answer, expected)
    else:
        document = answer.json
        check_ttl(log, document.pop("ttl"))
        check_beginning(log, document.pop("started_at"), document.pop("meta"))
        last = log.entries[-1] if log.entries else None
        told = last and {
            name: value
            for name, value in last.json(run.id).items()
            if name in ("id", "timestamp", "event")
        }
        is_lost = log.ended and last is not None and last.names[1] == "lost"
        check_equal(
            document,
            {
                "run_id": run.id,
                "state": "lost" if is_lost else "ended" if log.ended else "active",
                "ended_at": last.timestamp if last and log.ended else None,
                "last_event": told,
                "length": len(log.entries),
                "first_id": str(log.entries[0].id) if log.entries else None,
                "last_id": str(log.last_id),
                "last_sequence": log.added,
                "ended": log.ended,
                "lease_seconds": log.lease,
            },
        )


def check_beginning(log: Log, started_at: str | None, meta: Any) -> None:
    """Check what a run's state says of its first event; without the event, little is known."""
    first = log.entries[0] if log.entries else None
    if first is not None and first.sequence == 1 and not first.foreign:
        check_equal(started_at, first.timestamp)
        check_same(meta, first.data)
    elif log.added > len(log.entries) and not log.odd:
        check_equal(meta, None)


def read_page(
    world: World,
    run: Run,
    *,
    after: Id | None = None,
    before: Id | None = None,
    descending: bool = False,
    limit: int | None = None,
    filter: Filter = Filter(),
) -> None:
    parameters = filter.query
    parameters += [("after", str(after))] if after is not None else []
    parameters += [("before", str(before))] if before is not None else []
    parameters += [("order", "desc")] if descending else []
    parameters += [("limit", str(limit))] if limit is not None else []
    answer = world.http.request("GET", f"/runs/{run.id}/events?{urlencode(parameters)}")
    world.end_if_lost(run)
    if 0 in run.foreign:
        check_problem(answer, 409)
        return
    check_equal(answer.status, 200)
    between = [
        entry
        for entry in run.entries
        if (after is None or entry.id > after) and (before is None or entry.id < before)
    ]
    between = between[::-1] if descending else between
    matching = [entry for entry in between if filter.passes(entry)]
    expected = matching[: limit or 100]
    document = answer.json
    check_same(document["events"], [entry.json(run.id) for entry in expected])
    if document["next"] is None:
        assert len(expected) == len(matching), "there are more events, and no next page"
        return
    following = Id.of(document["next"])
    left = [entry.id < following if descending else entry.id > following for entry in between]
    assert any(left), "nothing is left, and yet there is a next page"
    rest = [entry for entry, is_left in zip(between, left, strict=True) if is_left]
    check_equal([entry for entry in rest if filter.passes(entry)], matching[len(expected) :])


@dataclass(frozen=True)
class Cursors:
    """Where a stream is asked to start: each may be absent, and the first given one counts."""

    header: str | None = None
    camel: tuple[str, ...] = ()
    snake: tuple[str, ...] = ()
    tail: int | None = None

    @property
    def text(self) -> str:
        """The one that counts, as control events name it."""
        for value in (self.header, *self.camel[::-1], *self.snake[::-1]):
            if value:
                return value
        return "earliest" if self.tail is None else f"tail={self.tail}"

    @property
    def query(self) -> list[tuple[str, str]]:
        camel = [("lastEventId", value) for value in self.camel]
        snake = [("last_event_id", value) for value in self.snake]
        return snake + camel + ([] if self.tail is None else [("tail", str(self.tail))])


def follow(
    world: World,
    run: Run,
    cursors: Cursors,
    filter: Filter,
    *,
    typed: str | None = None,
    json_lines: bool = False,
    write: Callable[[], object] | None = None,
) -> None:
    """Read a stream until it has caught up or ended; then `write`, and read what comes of it."""
    parameters = cursors.query + filter.query + ([] if typed is None else [("typed", typed)])
    path = f"/runs/{run.id}/events/stream?{urlencode(parameters)}"
    headers = [] if cursors.header is None else [("Last-Event-ID", cursors.header)]
    headers += [("Accept", JSON_LINES)] if json_lines else []
    run.followed = True
    answer = world.http.stream(path, headers)
    world.end_if_lost(run)
    head = world.http.request("HEAD", path, headers)
    if isinstance(answer, tuple):
        check_equal((head.status, head.body), (answer.status, b""))
        if 0 in run.foreign:
            check_problem(answer, 409)
        else:
            check_equal((answer.status, answer.body), (204, b""))
            assert _may_be_over(run, cursors.text), "there is something left to send"
        return
    with answer as frames:
        check_equal(head.status, 200)
        kind = JSON_LINES if json_lines else "text/event-stream"
        check_equal(head.headers["Content-Type"], f"{kind}; charset=utf-8")
        checks = FrameChecks(run, typed not in ("false", "0"), json_lines)
        ended = run.log is not None and run.log.ended
        cursor = _read_history(frames, run, cursors, filter, checks)
        if ended:
            assert next(frames, None) is None, "the run has ended, and the stream goes on"
        elif write is not None:
            write()
            news = [entry for entry in run.entries if entry.id > cursor]
            passing = [entry for entry in news if filter.passes(entry) or entry.terminal]
            for frame, entry in zip(islice(frames, len(passing)), passing, strict=True):
                checks.check_event(frame, entry)
            if passing and passing[-1].terminal and passing[-1] is run.entries[-1]:
                assert next(frames, None) is None, "the run has ended, and the stream goes on"


def _may_be_over(run: Run, start: str) -> bool:
    """Return whether the answer may be 204: the run has ended, and nothing is left to send."""
    if run.log is None or not run.log.ended:
        return False
    if start in ("latest", "tail=0"):
        return True
    if start == "earliest" or start.startswith("tail="):
        return False
    cursor = Id.of(start)
    return None in run.notices(cursor) and not run.log.after(cursor)


def _must_be_over(run: Run, start: str) -> bool:
    is_id = start[0].isdigit()
    return _may_be_over(run, start) and (not is_id or run.notices(Id.of(start)) == {None})


def _read_history(
    frames: Iterator[Frame], run: Run, cursors: Cursors, filter: Filter, checks: "FrameChecks"
) -> Id:
    """Read up to gateway.caught_up. Check notices and events, and return its cursor."""
    start = cursors.text
    assert not _must_be_over(run, start), "nothing is left to send, and yet there is a stream"
    *received, caught_up = _until_caught_up(frames)
    is_reset = bool(received) and received[0].control == "reset"
    if is_reset:
        checks.check_control(received.pop(0), start if start[0].isdigit() else None)
    due = _due(run, start, is_reset)
    visible = [at for at, entry in enumerate(due) if filter.passes(entry) or entry.terminal]
    gaps: list[tuple[int, int]] = []
    passed = 0
    for frame in received:
        if frame.control is not None:
            check_equal(frame.control, "gap")
            checks.check_control(frame, None)
            before = visible[passed - 1] + 1 if passed else 0
            gaps.append((before, visible[passed] if passed < len(visible) else len(due)))
            continue
        assert passed < len(visible), f"{frame} is too much"
        checks.check_event(frame, due[visible[passed]])
        passed += 1
    check_equal(passed, len(visible))
    check_notices(run, start, due, is_reset, gaps)
    checks.check_control(caught_up, start)
    return _check_position(caught_up, run, checks)


def _due(run: Run, start: str, is_reset: bool) -> Sequence[Entry]:
    """Return the entries of the history that a stream sends, before any filter."""
    if start == "earliest" or is_reset:
        return run.entries
    if start == "latest":
        return []
    if start.startswith("tail="):
        count = int(start.removeprefix("tail="))
        return run.entries[-count:] if count else []
    return run.log.after(Id.of(start)) if run.log else []


def _until_caught_up(frames: Iterator[Frame]) -> Iterator[Frame]:
    for frame in frames:
        yield frame
        if frame.control == "caught_up":
            return
    raise AssertionError("the stream ended before gateway.caught_up")


def _check_position(caught_up: Frame, run: Run, checks: "FrameChecks") -> Id:
    """Check that a client can resume from gateway.caught_up, and let the model know its cursor."""
    if checks.json_lines:
        return run.last_id
    assert caught_up.id is not None
    position = Id.of(caught_up.id)
    assert position <= run.last_id
    if run.log is not None:
        assert not run.log.after(position)
        assert not any(event_id > position for event_id in run.log.gone)
        run.log.given.add(position)
    run.seen.append(position)
    return position
