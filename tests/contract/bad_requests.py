"""Requests that are refused whatever the run holds: one fault each, its status and its field."""

import json
from typing import NamedTuple

from tests.contract.model import Run
from tests.contract.wire import Headers
from tests.contract.world import World, check_problem

_JSON = (("Content-Type", "application/json"),)
_LINES = (("Content-Type", "application/x-ndjson"),)
_SSE = (("Content-Type", "text/event-stream"),)
_SSE_EVENT = b"data: 1\n\n"
_EVENT = {"event_category": "llm", "event_action": "stream"}
_MAX_ID = "18446744073709551615"


class BadRequest(NamedTuple):
    """A request about a run (`{}` in the path), and what its problem document says."""

    status: int
    fields: tuple[str, ...]
    method: str
    path: str
    headers: Headers = ()
    body: bytes = b""


def _post(
    status: int, field: str, body: bytes, query: str = "", headers: Headers = _JSON
) -> BadRequest:
    return BadRequest(status, (field,), "POST", f"/runs/{{}}/events{query}", headers, body)


def _event(**members: object) -> bytes:
    return json.dumps(_EVENT | members).encode()


def _data(text: str) -> bytes:
    return f'{{"event_category":"llm","event_action":"stream","data":{text}}}'.encode()


def _query(path: str, field: str, *queries: str) -> list[BadRequest]:
    return [BadRequest(400, (field,), "GET", f"{path}?{query}") for query in queries]


def _key(*headers: str) -> list[BadRequest]:
    given = tuple(("Idempotency-Key", header) for header in headers)
    return [
        _post(400, "Idempotency-Key", body, headers=kind + given)
        for kind in (_JSON, _LINES)
        for body in (_event(), b"[%b,%b]" % (_event(), _event()))
    ]


_PAGE, _STREAM = "/runs/{}/events", "/runs/{}/events/stream"

BAD_REQUESTS = [
    *_query(_PAGE, "limit", "limit=0", "limit=1001", "limit=", "limit=1.0", "limit=%D9%A1"),
    *_query(_PAGE, "limit", "limit=1&limit=1", "limit=5&after=1-1&limit="),
    *_query(_PAGE, "after", "after=1", "after=", "after=1-", "after=latest", "after=1-1&after=1-1"),
    *_query(_PAGE, "before", f"before={_MAX_ID}6-0", "before=-1-0", "before=0-0&before=0-0"),
    *_query(_PAGE, "order", "order=", "order=ASC", "order=asc&order=asc", "order=up"),
    *_query(_STREAM, "tail", "tail=-1", "tail=", "tail=1000000001", "tail=1&tail=1", "tail=+1"),
    *_query(_STREAM, "tail", "last_event_id=latest&tail=x"),
    *_query(_STREAM, "typed", "typed=", "typed=no", "typed=True", "typed=1&typed=1"),
    *_query(_STREAM, "last_event_id", "last_event_id=1", "last_event_id=1-1&last_event_id=x"),
    *_query(_STREAM, "lastEventId", "lastEventId=EARLIEST", "lastEventId=x&last_event_id=1-1"),
    BadRequest(400, ("Last-Event-ID",), "GET", _STREAM, (("Last-Event-ID", "1"),)),
    BadRequest(
        400, ("Last-Event-ID",), "GET", f"{_STREAM}?lastEventId=1-1", (("Last-Event-ID", "$"),)
    ),
    *(BadRequest(400, ("run_id",), method, "/runs/a%20b/events") for method in ("GET", "DELETE")),
    BadRequest(400, ("run_id",), "GET", "/runs/.."),
    BadRequest(400, ("run_id",), "GET", f"/runs/{'x' * 129}/events/stream"),
    BadRequest(400, ("run_id",), "POST", "/runs/a:b/events", _JSON, _event()),
    BadRequest(404, (), "GET", "/nothing"),
    BadRequest(404, (), "GET", "/runs/{}/nothing"),
    BadRequest(405, (), "PUT", _PAGE),
    BadRequest(405, (), "POST", "/runs/{}"),
    BadRequest(405, (), "DELETE", _STREAM),
    *_key(""),
    *_key('""'),
    *_key("a b"),
    *_key("x" * 129),
    *_key('"a'),
    *_key("a", "a"),
    *_key('"a"', '"b"'),
    *_key("a,b"),
    *_key("", "a"),
    _post(400, "Idempotency-Key", _event(), headers=(*_LINES, ("Idempotency-Key", "k"))),
    *(
        _post(400, "expected_sequence", body, f"?expected_sequence={value}", kind)
        for value in ("0", "", "x", str(2**53 + 1), "1&expected_sequence=1")
        for kind, body in ((_JSON, _event()), (_LINES, _event()), (_SSE, _SSE_EVENT))
    ),
    _post(400, "Idempotency-Key", _SSE_EVENT, headers=(*_SSE, ("Idempotency-Key", "k"))),
    *(
        _post(400, "dialect", _SSE_EVENT, f"?dialect={value}", _SSE)
        for value in ("", "AI-SDK", "json", "raw&dialect=raw")
    ),
    *(
        _post(400, "lease_seconds", _SSE_EVENT, f"?lease_seconds={value}", _SSE)
        for value in ("", "0", "1.5", "31536000001", "1&lease_seconds=1")
    ),
    *(
        _post(400, name, _event(), f"?{name}=1" if name != "dialect" else "?dialect=raw", kind)
        for name in ("dialect", "lease_seconds")
        for kind in (_JSON, _LINES)
    ),
    *(_post(400, "body", body, headers=_SSE) for body in (b"data: \xff\n", b": \xc3\r\r")),
    *(
        _post(413, "data", body + b"\n\n", "?dialect=ai-sdk", _SSE)
        for body in (b"data: %b" % (b"x" * 262_145), b"event: %b" % (b"x" * 262_145))
    ),
    _post(413, "body", b": " + b"x" * (4 * 2**20) + b"\n\n", headers=_SSE),
    *(_post(400, "body", body) for body in (b"", b"{", b"\xff", b"nonsense", _data("NaN"))),
    *(_post(400, "body", _data(text)) for text in ("1e400", "[" * 2000 + "]" * 2000)),
    _post(400, "1", b"[%b,{]" % _event()),
    *(_post(422, "body", body) for body in (b"1", b'"a"', b"null", b"[]")),
    _post(422, "body", _event(**{f"x{number}": 1 for number in range(20)})),
    _post(422, "body", b"[%b]" % b",".join([_event()] * 1001)),
    _post(422, "x", _event(x=2**64)),
    _post(422, "event", _event(event={"category": "a", "action": "b"})),
    _post(422, "event", b'{"event": []}'),
    _post(422, "event.x", b'{"event": {"category": "a", "action": "b", "x": 1}}'),
    *(_post(422, "event_category", _event(event_category=value)) for value in ("", "a.b", 2**64)),
    _post(422, "event_category", b'{"event_action": "a"}'),
    _post(422, "event_category", b'{"event": {"category": "gateway", "action": "a"}}'),
    _post(422, "event_action", _event(event_category="lifecycle", event_action="lost")),
    _post(422, "1.event_action", b"[%b,%b]" % (_event(), _event(event_action="x" * 65))),
    *(
        _post(422, "lease_seconds", _event(lease_seconds=value))
        for value in (0, 31_536_000_001, 1.0, "1", True, 2**64, -(2**64), [2**64])
    ),
    *(_post(422, "data", _data(text)) for text in (str(2**64), f"[{-(2**63) - 1}]", "9" * 99)),
    *(_post(422, "data", _data("[" * depth + "]" * depth)) for depth in (129, 500)),
    _post(422, "source", _event(source=2**64)),
    _post(422, "1.source", b"[%b,%b]" % (_event(), _event(source=[2**64]))),
    _post(413, "data", _event(data="x" * 262_144)),
    _post(413, "1.source", b"[%b,%b]" % (_event(), _event(source="x" * 262_144))),
    _post(413, "body", _event(data="x" * (4 * 2**20))),
    *(
        _post(415, "Content-Type", _event(), headers=(("Content-Type", kind),))
        for kind in ("text/plain", "application/json; charset=latin-1", "")
    ),
    _post(415, "Content-Encoding", _event(), headers=(*_JSON, ("Content-Encoding", "gzip"))),
]


def send(world: World, run: Run, bad: BadRequest) -> None:
    """Send a bad request, and check the problem. The world checks that nothing has changed."""
    answer = world.http.request(bad.method, bad.path.format(run.id), bad.headers, bad.body)
    problem = check_problem(answer, bad.status)
    assert [error["field"] for error in problem.get("errors", [])] == list(bad.fields), problem
    assert (answer.status == 405) == ("Allow" in answer.headers)
