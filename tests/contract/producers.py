"""The operations that change a run: appends and DELETE over HTTP, and what others do in Redis."""

import time
from collections.abc import Sequence
from typing import Any

from tests.contract.events import Style, text_of
from tests.contract.model import Content, Entry, Id, KeyRecord, Log, Run
from tests.contract.wire import Answer
from tests.contract.world import World, check_equal, check_problem, check_same

BLANK = b" \t"
BAD_LINES = {b"{": 400, b'{"event_category": "llm"}': 422, b"[]": 422}


def append(
    world: World,
    run: Run,
    contents: Sequence[Content],
    styles: Sequence[Style],
    *,
    as_batch: bool,
    key: str | None = None,
    key_in_quotes: bool = True,
    expected: int | None = None,
    lease: int | None = None,
) -> None:
    """Append one event or a batch. The lease is set by the first event, in a batch."""
    headers = [("Content-Type", "application/json")]
    if key is not None:
        headers.append(("Idempotency-Key", f'"{key}"' if key_in_quotes else key))
    leases = [lease] + [None] * (len(contents) - 1)
    texts = [text_of(*each) for each in zip(contents, styles, leases, strict=True)]
    body = f"[{','.join(texts)}]" if as_batch else texts[0]
    query = "" if expected is None else f"?expected_sequence={expected}"
    answer = world.http.request("POST", f"/runs/{run.id}/events{query}", headers, body.encode())

    if 0 in run.foreign or (key is not None and run.foreign):
        check_problem(answer, 409)
    elif record := run.known_key(key):
        _check_repeat(answer, run, record, list(contents), as_batch)
    elif refusals := _refusals(run, contents, expected):
        problem = check_problem(answer, 409)
        members = "ended", "last_sequence", "full"
        found = {name: problem[name] for name in members if name in problem}
        assert found in refusals, (problem, refusals)
    else:
        check_equal(answer.status, 201)
        assert "Idempotent-Replayed" not in answer.headers
        entries = _check_stored(answer, world, run, contents, as_batch, lease)
        if key is not None and run.log is not None:
            ids = [entry.id for entry in entries]
            run.keys[key] = KeyRecord(run.log, entries[0], ids, list(contents))


def _refusals(run: Run, contents: Sequence[Content], expected: int | None) -> list[dict[str, Any]]:
    """Return the members of the problems with which an append may be refused."""
    refusals: list[dict[str, Any]] = [{"full": True}] if run.is_full else []
    if expected is not None and expected != run.last_sequence + 1:
        refusals.append({"last_sequence": run.last_sequence})
    ended = run.log is not None and run.log.ended
    for content in contents:
        if ended and not content.reopens:
            refusals.append({"ended": True})
            break
        ended = content.terminal
    return refusals


def _check_repeat(
    answer: Answer, run: Run, record: KeyRecord, contents: list[Content], as_batch: bool
) -> None:
    if not record.is_same(contents):
        check_problem(answer, 422)
        return
    check_equal((answer.status, answer.headers["Idempotent-Replayed"]), (200, "true"))
    if as_batch:
        first = record.first.sequence or 0
        check_equal(answer.json, _numbers(record.ids, first))
    else:
        check_same(answer.json, record.first.json(run.id))


def _check_stored(
    answer: Answer,
    world: World,
    run: Run,
    contents: Sequence[Content],
    as_batch: bool,
    lease: int | None,
) -> list[Entry]:
    first = Id.of(answer.json["events"][0]["id"] if as_batch else answer.json["id"])
    ids = [Id(first.ms, first.n + number) for number in range(len(contents))]
    assert first > run.last_id
    entries = take_entries(world, run, contents, first, ids[-1], lease=lease)
    check_equal([entry.id for entry in entries], ids)
    if as_batch:
        check_equal(answer.json, _numbers(ids, entries[0].sequence or 0))
    else:
        check_same(answer.json, entries[0].json(run.id))
    return entries


def _numbers(ids: Sequence[Id], first: int) -> dict[str, Any]:
    events = [{"id": str(each), "sequence": number} for number, each in enumerate(ids, first)]
    return {"events": events}


def take_entries(
    world: World,
    run: Run,
    contents: Sequence[Content],
    first: Id,
    last: Id,
    *,
    lease: int | None = None,
    as_lines: bool = False,
) -> list[Entry]:
    """Check the entries that were appended for some contents, and add them to the model."""
    entries = world.learn_entries(run, first, last)
    log = run.log = run.log or Log()
    inherited = lease or log.lease
    check_equal(len(entries), len(contents))
    for entry, content in zip(entries, contents, strict=True):
        assert entry.content.is_same(content), (entry, content)
        check_equal(entry.traceparent, content.traceparent)
        check_equal(entry.sequence, log.added + 1)
        if not any(each.terminal for each in contents):
            check_equal(entry.lease, inherited)
        log.add(entry)
        run.seen.append(entry.id)
        if as_lines:
            log.appended(time.time())
    log.appended(time.time())
    return entries


def append_lines(
    world: World,
    run: Run,
    lines: Sequence[Content | bytes],
    style: Style,
    *,
    expected: int | None = None,
    pieces: int = 0,
    ends_with_break: bool = True,
) -> None:
    """Send lines: events, blank ones, and bad ones. The body comes in `pieces` if there are any."""
    texts = [each if isinstance(each, bytes) else _line(each, style) for each in lines]
    body = b"\n".join(texts) + (b"\n" if ends_with_break and texts else b"")
    size = max(1, len(body) // pieces) if pieces else 0
    whole = [body[at : at + size] for at in range(0, len(body), size)] if pieces else body
    query = "" if expected is None else f"?expected_sequence={expected}"
    headers = [("Content-Type", "application/x-ndjson")]
    answer = world.http.request("POST", f"/runs/{run.id}/events{query}", headers, whole)

    before, last_id = run.last_sequence, run.last_id
    stored, refused_line, status, members = _ingested(run, lines, expected)
    document = answer.json
    if status == 200:
        check_equal(answer.status, 200)
        check_equal(document.keys(), {"stored", "last_id", "last_sequence"})
    else:
        check_problem(answer, status)
        check_equal(document["line"], refused_line)
    if stored:
        take_entries(
            world, run, stored, last_id.following, Id.of(document["last_id"]), as_lines=True
        )
    found = {"last_id": str(run.last_id) if stored else None, "stored": len(stored)}
    found["last_sequence"] = run.last_sequence if stored else None
    check_equal({name: document[name] for name in found | members}, found | members)
    assert "unknown" not in document
    check_equal(run.last_sequence, before + len(stored))


def _line(content: Content, style: Style) -> bytes:
    return text_of(content, style).replace("\n", " ").encode()


def _ingested(
    run: Run, lines: Sequence[Content | bytes], expected: int | None
) -> tuple[list[Content], int, int, dict[str, Any]]:
    """Return what is stored of lines, the line that is refused, the status, and its members."""
    stored: list[Content] = []
    ended = run.log is not None and run.log.ended
    for number, line in enumerate(lines, 1):
        if line in (BLANK, b""):
            continue
        if isinstance(line, bytes):
            return stored, number, BAD_LINES[line], {}
        if 0 in run.foreign or run.is_full:
            return stored, number, 409, {}
        if expected is not None and expected != run.last_sequence + 1:
            return stored, number, 409, {"last_sequence": run.last_sequence}
        if ended and not line.reopens:
            return stored, number, 409, {"ended": True}
        stored.append(line)
        ended = line.terminal
    return stored, 0, 200, {}


def delete(world: World, run: Run) -> None:
    answer = world.http.request("DELETE", f"/runs/{run.id}/events")
    if run.foreign:
        check_problem(answer, 409)
    else:
        check_equal((answer.status, answer.body), (204, b""))
        run.log = None
        run.keys.clear()
