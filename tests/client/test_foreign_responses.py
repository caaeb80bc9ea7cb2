"""Whatever a server answers, only errors of the package's own tree leave the client."""

import contextlib
import gzip
import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.client import Client
from app.protocol.options import MAX_REDIRECTS
from app.streaming.errors import InvalidInput, Refused, StoreUnavailable, StreamingError
from tests.both_clients import replace_pauses
from tests.client.fake_gateway import FakeGateway, response, run_state, stream
from tests.client.test_follower import OVER

EVENT = {"event_category": "llm", "event_action": "stream"}


def append_in_background(client: Client) -> None:
    run = client.appender(1)
    run.emit("llm", "stream")
    run.close()


CALLS: dict[str, Callable[[Client], object]] = {
    "add": lambda client: client.add(1, "llm", "stream"),
    "add_many": lambda client: client.add_many(1, [EVENT] * 2),
    "appender": append_in_background,
    "stream": lambda client: client.stream(1, [EVENT], expected_sequence=1),
    "follow": lambda client: [
        (event.name, event.terminal, event.event, event.data, event.source)
        for event in itertools.islice(client.follow(1), 10)
    ],
    "get_events": lambda client: [
        (event.name, event.terminal, event.event, event.data, event.source)
        for event in client.get_events(1, limit=10)
    ],
    "get_events_after": lambda client: client.get_events_after(1, "1-0"),
    "state": lambda client: client.state(1),
    "runs": lambda client: list(client.runs(limit=10)),
}


@pytest.fixture(autouse=True, scope="module")
def no_pauses():
    with pytest.MonkeyPatch.context() as patch:
        replace_pauses(patch, lambda seconds: None)
        yield


def outcome(call: str, *script: bytes | None) -> StreamingError | None:
    """Return the error that a call raises when it gets these responses."""
    with FakeGateway([*script]) as gateway, Client(gateway.url, retry_seconds=0) as client:
        try:
            CALLS[call](client)
        except StreamingError as error:
            str(error)
            return error
    return None


# What gateways, other servers and broken ones send.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
odd = json_values | st.sampled_from(["", "1-0", "é\r\n", "x" * 100, 10**30, -1, [], {}, True])
members = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("id", "run_id", "sequence", "timestamp", "data", "source"), odd),
        **dict.fromkeys(("events", "next", "stored", "last_id", "last_sequence", "line"), odd),
        **dict.fromkeys(("detail", "errors", "ended", "unknown", "title", "status"), odd),
        "event": odd | st.fixed_dictionaries({"category": odd, "action": odd}),
    },
)
event = st.fixed_dictionaries(
    {
        "id": st.just("1-0") | odd,
        "run_id": st.just("1") | odd,
        "sequence": st.just(1) | odd,
        "timestamp": st.none() | odd,
        "event": st.just({"category": "llm", "action": "stream"}) | odd,
        "data": odd,
        "source": odd,
    }
)
documents = (
    members
    | event
    | json_values
    | st.fixed_dictionaries({"events": st.lists(event | odd, max_size=3) | odd, "next": odd})
    | st.fixed_dictionaries(
        {"errors": st.lists(st.fixed_dictionaries({"field": odd, "detail": odd}) | odd)}
    )
)
bodies = (
    documents.map(lambda document: json.dumps(document).encode())
    | event.map(lambda document: f"id: {document['id']}\ndata: {json.dumps(document)}\n\n".encode())
    | st.binary(max_size=60)
    | st.sampled_from(
        [
            b"",
            b"<html>",
            b"[" * 2000,
            b'{"events":' * 600,
            b'{"id":"1-0","sequence":1e400}',
            b'{"a":"\xff"}',
            b'{"id":"\\ud800"}',
            b"0\r\n\r\n",
            b"ffffffffffffffffff\r\nx",
            b"-1\r\nx\r\n0\r\n\r\n",
            b"id: \x00\xff\xe2\x82\xac\ndata: {}\n\n",
            gzip.compress(b'{"id":"1-0"}')[:-9],
        ]
    )
)
odd_text = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=12)
header_values = {
    "Content-Type": ["application/json", "text/event-stream", "text/html; charset=no-such", ""],
    "Content-Encoding": ["gzip", "deflate", "br", "zstd", "gzip, gzip", "no-such", "identity"],
    "Content-Length": ["0", "-1", "1", "5, 6", "many", "9" * 30],
    "Transfer-Encoding": ["chunked", "gzip, chunked", "no-such"],
    "Location": [
        *(
            "/elsewhere",
            "//",
            "http://",
            "ftp://a/b",
            "http://[",
            "http://a:99999/",
            "http://a..b/",
        ),
        *("\xff\xfe", "http://\xc3\xa9\xc3.invalid:x/", "mailto:a", "?", "", "http://*/", ":0"),
    ],
    "Retry-After": ["-1", "1e9", "Fri, 31 Dec 1999 23:59:59 GMT", "²"],
    "Set-Cookie": ["a=b; expires=never; domain=..", "=;=;", "\xff"],
    "WWW-Authenticate": ["Digest", "Basic realm="],
    "Connection": ["close", "keep-alive", "upgrade"],
    "Idempotent-Replayed": ["true", "perhaps"],
}
headers = st.lists(
    st.sampled_from(list(header_values)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(header_values[name]) | odd_text)
    ),
    max_size=4,
)
statuses = st.sampled_from(
    [
        *(100, 103, 200, 200, 200, 201, 204, 206, 301, 302, 303, 304, 307, 308),
        *(400, 401, 404, 407, 408, 409, 413, 422, 429, 500, 503, 600, 999),
    ]
)


@st.composite
def responses(draw) -> bytes:
    lines = [f"HTTP/1.{draw(st.sampled_from('01'))} {draw(statuses)} {draw(odd_text)}"]
    lines += [f"{name}: {value}" for name, value in draw(headers)]
    body = draw(bodies)
    framing = draw(st.sampled_from(["length", "chunks", "none", "none"]))
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
    elif framing == "chunks":
        lines.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@pytest.mark.parametrize("call", CALLS)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(responses() | st.binary(max_size=80))
@example(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n")
@example(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n{}")
def test_only_errors_of_the_package_leave_a_call(call, given):
    outcome(call, given, OVER)


@pytest.mark.parametrize("location", header_values["Location"])
@pytest.mark.parametrize("call", CALLS)
def test_a_redirect_to_no_url_is_refused(call, location):
    redirect = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    error = outcome(call, redirect.encode("latin-1"), response(404))
    assert isinstance(error, Refused | StoreUnavailable) or (call == "state" and error is None)


@pytest.mark.parametrize("call", ["follow", "get_events", "state"])
def test_too_many_redirects_are_refused(call):
    error = outcome(call, response(302, location="/elsewhere"))
    assert isinstance(error, Refused)
    assert error.status == 302


@pytest.mark.parametrize("call", ["follow", "get_events", "state"])
def test_a_get_is_redirected(call):
    page = response(200, {"events": [], "next": None, **run_state()})
    answer = OVER if call == "follow" else page
    script = [response(307, location="/elsewhere")] * MAX_REDIRECTS
    with FakeGateway([*script, answer]) as gateway:
        CALLS[call](Client(gateway.url))
    assert gateway.requests[-1].path == "/elsewhere"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("call", CALLS)
def test_a_content_encoding_that_lies_is_not_a_gateways(call, encoding):
    content_type = "text/event-stream" if call == "follow" else "application/json"
    lie = response(200, {"id": "1-0"}, content_encoding=encoding, content_type=content_type)
    error = outcome(call, lie, OVER)
    assert isinstance(error, Refused)
    assert "not from a Tailrace gateway" in error.detail


def test_a_compressed_stream_is_followed():
    document = {
        **{"id": "1-0", "run_id": "1", "sequence": 1, "timestamp": None, "data": 1, "source": None},
        "event": {"category": "llm", "action": "stream"},
    }
    body = gzip.compress(f"id: 1-0\ndata: {json.dumps(document)}\n\n".encode())
    compressed = response(200, body, content_encoding="gzip", content_type="text/event-stream")
    with FakeGateway([compressed, OVER]) as gateway:
        assert [event.id for event in Client(gateway.url).follow(1)] == ["1-0"]


@pytest.mark.parametrize("odd_id", ["é", "1 0", "x" * 9000])
def test_an_id_that_no_header_can_carry_is_not_a_gateways(odd_id):
    assert isinstance(outcome("follow", stream(f"id: {odd_id}\ndata: {{}}")), Refused)


def test_a_page_that_follows_itself_is_not_a_gateways():
    assert isinstance(outcome("get_events", response(200, {"events": [], "next": "1-0"})), Refused)


WRONG_STATES = [
    {},
    *(
        {name: value for name, value in run_state().items() if name != missing}
        for missing in ("started_at", "first_id", "last_event")
    ),
    {"ended": True},
    5,
    *(
        run_state(**{name: value})
        for name, value in [
            ("run_id", None),
            ("state", 1),
            ("ended", 0),
            ("length", True),
            ("last_sequence", None),
            ("first_id", "one"),
            ("first_id", ""),
            ("last_id", None),
            ("last_id", "99999999999999999999-0"),
            ("last_event", 5),
            ("last_event", {}),
            ("last_event", {"timestamp": None, "event": None}),
            ("last_event", {"timestamp": None, "event": {"category": "a"}}),
            ("last_event", {"timestamp": None, "event": {"category": [], "action": "a"}}),
            ("started_at", 5),
        ]
    ),
]


@pytest.mark.parametrize("state", WRONG_STATES)
@pytest.mark.parametrize("call", ["state", "runs"])
def test_a_state_that_lacks_something_is_not_a_gateways(call, state):
    given = state if call == "state" else {"runs": [run_state(), state], "next": None}
    error = outcome(call, response(200, given))
    assert isinstance(error, Refused)
    assert "not from a Tailrace gateway" in error.detail


# URLs and proxies


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "http:///runs", "http://:80", "http://a:99999", "http://a:b", "http://["),
        *("http://a b", "http://a..b", "http://.a", "http://" + "a" * 64, "http://*.a", "http://?"),
        *(
            "http://a?b=c",
            "http://a/#b",
            "http://a\n",
            "http://é\udcff",
            "https://a:-1",
            "http://%",
        ),
    ],
)
def test_a_bad_url_is_refused_when_the_client_is_made(url):
    with pytest.raises(InvalidInput) as failed:
        Client(url)
    assert failed.value.field == "url"


@pytest.mark.parametrize(
    "url",
    [
        *("http://localhost:8082", "http://127.0.0.1:8082/", "https://[::1]:8082", "http://a/b/c"),
        *("https://user:password@host", "http://bücher.example", "http://a_b.internal:1"),
    ],
)
def test_a_good_url_is_taken(url):
    Client(url).close()


@pytest.mark.parametrize(
    "proxy", ["no-such://a:1", "http://", "http://a:99999", "http://[", "socks5://a:1", "http://:1"]
)
def test_a_bad_proxy_is_refused_when_the_client_is_made(monkeypatch, proxy):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(InvalidInput):
        Client("http://gateway.example")


@pytest.mark.only_client(reason="httpx wants the proxies of all schemes to be right")
def test_a_bad_proxy_of_another_scheme_does_not_matter(monkeypatch):
    monkeypatch.setenv("http_proxy", "no-such://a:1")
    Client("https://gateway.example").close()


def test_missing_certificates_are_refused_when_the_client_is_made(monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
    with pytest.raises(InvalidInput):
        Client("https://gateway.example")


@pytest.mark.only_client(reason="httpx reads the environment when the client is made")
@pytest.mark.parametrize("call", CALLS)
def test_a_proxy_that_becomes_bad_later_is_an_error_of_the_package(monkeypatch, call):
    client = Client("http://gateway.example", retry_seconds=0)
    monkeypatch.setenv("http_proxy", "no-such://a:1")
    with contextlib.closing(client), pytest.raises(StreamingError):
        CALLS[call](client)
