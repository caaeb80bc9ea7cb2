"""Random conversations: the bytes that one client sends over a connection, and where it pauses."""

import json
import random
from collections.abc import Iterator

EVENT = {"event_category": "llm", "event_action": "stream", "data": "x"}

HEADERS = [
    ("User-Agent", "curl/8"),
    ("Accept", "*/*"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Accept-Language", "de;q=0.5"),
    ("Connection", "keep-alive"),
    ("Connection", "Keep-Alive"),
    ("Connection", "close"),
    ("Connection", "upgrade"),
    ("Idempotency-Key", "a"),
    ("Idempotency-Key", '"b"'),
    ("Idempotency-Key", '"c'),
    ("Idempotency-Key", "d,e"),
    ("X-Forwarded-For", "10.0.0.1, 10.0.0.2"),
    ("X-Forwarded-Proto", "https"),
    ("X-Real-IP", "10.0.0.1"),
    ("Authorization", "Bearer abc"),
    ("Authorization", "Basic abc"),
    ("Origin", "http://localhost:3000"),
    ("Origin", "http://other.example"),
    ("Expect", "100-continue"),
    ("Transfer-Encoding", "chunked"),
    ("Content-Encoding", "gzip"),
    ("Content-Length", "5"),
    ("Cookie", "a=b"),
    ("X-Request-Id", "a-1"),
    ("X-Request-ID", "a b"),
    ("X-Request-Id", "a" * 129),
    ("traceparent", f"00-{'1' * 32}-{'2' * 16}-01"),
    ("traceparent", f"cc-{'1' * 32}-{'2' * 16}-ff-more"),
    ("Traceparent", f"00-{'0' * 32}-{'2' * 16}-01"),
    ("tracestate", "a=b"),
    ("X-Odd", ""),
    ("X-Odd", "\t a"),
    ("X_Odd", "a"),
    ("User-Agent", "a\x7fb"),
    ("User-Agent", "é"),
    ("Bad Name", "a"),
]
MAX_EVENT_BYTES, MAX_BODY_BYTES = 40_000, 60_000  # of both gateways
SIZES = [35_000, 45_000, 62_000, 70_000, 300_000]
PATH_ENDS = [
    *("?", "?expected_sequence=1", "?expected_sequence=a", "?x=1", "/", "#a", "%20"),
    *("?dialect=raw", "?dialect=x", "?lease_seconds=1"),
]
VERSIONS = ["HTTP/1.0", "HTTP/2.0", "http/1.1"]
HOSTS = ["localhost", "localhost:80", "127.0.0.1", "other.example", "local host", "", "[::1]:1"]
TYPES = [
    *["application/json"] * 6,
    *("application/json; charset=utf-8", "Application/JSON", "application/vnd.a+json"),
    *("application/json; charset=latin-1", "application/x-ndjson", "text/plain", "", "a" * 300),
    "text/event-stream",
]
NAMES = ["llm", "a" * 64, "a" * 65, "gateway", "", "a b", "ä", 5, None, "lifecycle"]
VALUES = [None, "x", "é\u2028", 0, -1, 1.5, 2**63, 2**64, 10**30, True, [], {}, [1, [2]], {"a": {}}]
RAW_BODIES = [
    *(b"", b"{", b"[]", b"{}", b"null", b"1", b'"a"', b"\xff", b"\xef\xbb\xbf{}", b"[[]]", b" {} "),
    *(b'{"event_category":"a","event_action":"b","data":NaN}', b"\x00", b"[" * 600, b"1" * 5000),
    b'{"event_category":"a","event_action":"b","data":"\\ud83d"}',
    b'{"event_category":"a","event_category":"b","event_action":"c"}',
]


def conversation(dice: random.Random, runs: list[str]) -> tuple[list[bytes], list[float]]:
    """Return the pieces that a client sends, and how long it pauses after each in seconds."""
    sent = b"".join(_request(dice, dice.choice(runs)) for _ in range(dice.randint(1, 6)))
    if dice.random() < 0.1:
        sent = sent[: dice.randrange(len(sent) + 1)]
    cuts = sorted(dice.randrange(len(sent) + 1) for _ in range(dice.choice((0, 0, 1, 2, 5))))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    pauses = [dice.choice((0, 0, 0.001, 0.005)) for _ in pieces]
    if dice.random() < 0.01:
        pauses[0] = 0.4  # longer than the gateway's patience
    return pieces, pauses


def _request(dice: random.Random, run_id: str) -> bytes:
    kind = dice.random()
    if kind < 0.08:
        path = dice.choice(["/healthz", f"/runs/{run_id}", f"/runs/{run_id}/events", "/nothing"])
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    if kind < 0.1:
        return f"DELETE /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    body = _body(dice)
    length = str(len(body))
    if dice.random() < 0.02:
        length = dice.choice(["0", "-1", "+5", "5 ", "0x5", "", "9" * 20, f"0{length}", "5, 5"])
    path = f"/runs/{run_id}/events"
    if dice.random() < 0.08:
        path += dice.choice(
            ["?", "?expected_sequence=1", "?x=1", "/", "#a", "%20", "?expected_sequence=a"]
        )
    headers = [
        ("Host", "localhost"),
        ("Content-Type", "application/json"),
        ("Content-Length", length),
    ]
    if dice.random() < 0.1:
        headers[0] = "Host", dice.choice(HOSTS)
    # How much of a line that is too long is read before the answer depends on the pieces.
    if dice.random() < 0.15 and len(body) < MAX_BODY_BYTES:
        headers[1] = "Content-Type", dice.choice(TYPES)
    if dice.random() < 0.03:
        del headers[dice.randrange(3)]
    headers += dice.choices(HEADERS[:6], k=dice.choice((0, 0, 1, 2)))
    if dice.random() < 0.3:
        headers.append(dice.choice(HEADERS))
    if dice.random() < 0.2:
        dice.shuffle(headers)
    return b"".join(_head(dice, path, headers)) + b"\r\n" + body


def _head(dice: random.Random, path: str, headers: list[tuple[str, str]]) -> Iterator[bytes]:
    version = (
        "HTTP/1.1" if dice.random() > 0.02 else dice.choice(["HTTP/1.0", "HTTP/2.0", "http/1.1"])
    )
    method = "POST" if dice.random() > 0.01 else dice.choice(["post", "PUT", "PATCH", "OPTIONS"])
    yield f"{method} {path} {version}\r\n".encode()
    for name, value in headers:
        if dice.random() < 0.05:
            name = dice.choice([name.lower(), name.upper(), f"{name} "])
        colon = ": " if dice.random() > 0.02 else dice.choice([":", ":  ", ":\t"])
        end = "\r\n" if dice.random() > 0.005 else "\n"
        yield f"{name}{colon}{value}{end}".encode()


def _body(dice: random.Random) -> bytes:
    kind = dice.random()
    if kind < 0.15:
        return dice.choice(RAW_BODIES)
    if kind < 0.3:
        events = [_event(dice) for _ in range(dice.choice((1, 2, 3, 60)))]
        return json.dumps(events, ensure_ascii=dice.random() < 0.5).encode()
    if kind < 0.33:
        return json.dumps({**EVENT, "data": "x" * dice.choice(SIZES)}).encode()
    return json.dumps(_event(dice), ensure_ascii=dice.random() < 0.5).encode()


def _event(dice: random.Random) -> dict[str, object]:
    event: dict[str, object] = {**EVENT, "data": dice.choice(VALUES)}
    if dice.random() < 0.1:
        event[dice.choice(list(event))] = dice.choice(NAMES)
    if dice.random() < 0.1:
        event["source"] = dice.choice(VALUES)
    if dice.random() < 0.1:
        event["traceparent"] = dice.choice([f"00-{'a' * 32}-{'b' * 16}-00", "none", "", None, 5])
    if dice.random() < 0.05:
        event["lease_seconds"] = dice.choice([60, 0, "1", None, 1.5])
    if dice.random() < 0.03:
        event = {"event": {"category": "llm", "action": "stream"}, "data": event["data"]}
    if dice.random() < 0.03:
        event["odd"] = 1
    if dice.random() < 0.02:
        event |= {
            "event_category": "lifecycle",
            "event_action": dice.choice(["completed", "started"]),
        }
    return event
