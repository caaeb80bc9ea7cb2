"""Ingest of Server-Sent Events with Flask's test client: what is stored, in each dialect."""

import io
import json

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from app.protocol.sse_parser import SseParser
from app.routes.writing import json_body
from app.settings import Settings
from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from tests.routes.ingest.test_ingest import check_refusal, stored_data

PATH = "/runs/1/events"
SSE = "text/event-stream"


def sse(data: object, name: str = "") -> bytes:
    """Return an SSE event; data that is no text is sent as JSON."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def chunk(kind: str, **more) -> bytes:
    return sse({"type": kind, **more})


DONE = sse("[DONE]")


def send(http: FlaskClient, *events: bytes, query: str = "", **options) -> TestResponse:
    options = {"content_type": SSE, **options}
    return http.post(f"{PATH}?{query}", data=b"".join(events), **options)


def broken(body: bytes) -> dict:
    """Return the options of a request whose body breaks off after these bytes."""
    return {"environ_overrides": {"CONTENT_LENGTH": str(len(body) + 9)}}


def stored(store: EventStore) -> list[tuple]:
    """Return the names, the data and the source of each stored event."""
    return [
        (f"{event.category}.{event.action}", event.data, event.source)
        for event in store.get_events(1)
    ]


def names(store: EventStore) -> list[str]:
    return [f"{event.category}.{event.action}" for event in store.get_events(1)]


# What an SSE event becomes


@pytest.mark.parametrize("content_type", [SSE, f"{SSE}; charset=UTF-8", "TEXT/EVENT-STREAM"])
def test_every_event_is_stored_and_the_answer_has_the_last_id_and_sequence(
    http, fake_store, content_type
):
    response = send(http, *map(sse, range(2500)), content_type=content_type)
    assert (response.status_code, response.mimetype) == (200, "application/json")
    events = fake_store.get_events(1)
    assert [event.data for event in events] == list(range(2500))
    assert response.json == {"stored": 2500, "last_id": events[-1].id, "last_sequence": 2500}


TEXT = {"sse": {"text": True}}


@pytest.mark.parametrize(
    ("sent", "data", "source"),
    [
        ('{"a": "分\u2028"}', {"a": "分\u2028"}, None),
        (' {"a" : 1} ', {"a": 1}, None),
        ('"hello"', "hello", None),
        ("null", None, None),
        ("0.5", 0.5, None),
        ("[]", [], None),
        (r'"\ud83d"', "\ufffd", None),
        ("hello", "hello", TEXT),
        ("", "", TEXT),
        (" ", " ", TEXT),
        ("\0", "\0", TEXT),
        ("\ufeff{}", "\ufeff{}", TEXT),
        ("a\u2028b\x85\x0b", "a\u2028b\x85\x0b", TEXT),
        ("NaN", "NaN", TEXT),
        ("{", "{", TEXT),
        ("1 2", "1 2", TEXT),
        ("18446744073709551616", "18446744073709551616", TEXT),
        ("9" * 5000, "9" * 5000, TEXT),
        ("[" * 129 + "]" * 129, "[" * 129 + "]" * 129, TEXT),
        ("[" * 20_000 + "]" * 20_000, "[" * 20_000 + "]" * 20_000, TEXT),
        ("[DONE] ", "[DONE] ", TEXT),
        ("[done]", "[done]", TEXT),
    ],
    ids=lambda each: str(each)[:20],
)
def test_data_is_stored_as_json_or_as_text(http, fake_store, sent, data, source):
    assert send(http, b"data: %b\n\n" % sent.encode()).json["stored"] == 1
    assert stored(fake_store) == [("sse.message", data, source)]


def test_the_data_lines_of_an_event_are_joined(http, fake_store):
    send(http, b'data: {"a":\ndata: 1}\n\ndata: a\ndata\ndata:  b\ndata:\n\n')
    assert stored(fake_store) == [
        ("sse.message", {"a": 1}, None),
        ("sse.message", "a\n\n b\n", TEXT),
    ]


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("message", "message"),
        ("token", "token"),
        ("response.output_text.delta", "response_output_text_delta"),
        ("two words", "two_words"),
        ("分é", "__"),
        ("😀", "_"),
        (".", "_"),
        ("a\0b", "a_b"),
        ("x" * 64, "x" * 64),
        ("x" * 1000, "x" * 64),
        ("lifecycle.completed", "lifecycle_completed"),
        ("gateway", "gateway"),
    ],
)
def test_a_name_becomes_an_action_and_is_never_lost(http, fake_store, name, action):
    send(http, sse({"a": 1}, name), sse("text", name))
    said = {} if name == action else {"event": name}
    source = {"sse": said} if said else None
    assert stored(fake_store) == [
        (f"sse.{action}", {"a": 1}, source),
        (f"sse.{action}", "text", {"sse": {**said, "text": True}}),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\r\n\r\r\n",
        b": ping\n\n",
        b": " + b"x" * 1_000_000 + b"\n\n",
        b"event: a\n\n",
        b"id\nid:\nid: 5\nid: a\0b\nid: \xc3\xa9\n\n",
        b"retry\nretry:\nretry: 5\nretry: x\nretry: 1e9\nretry: -1\n\n",
        b"nonsense\nDATA: 1\n data: 1\n\n",
        b"\xef\xbb\xbf",
        b"\n" * 100_000,
    ],
)
def test_a_body_without_data_is_200_and_stores_nothing(http, fake_client, body):
    response = send(http, body, query="lease_seconds=5")
    assert response.json == {
        "stored": 0,
        "last_id": None,
        "last_sequence": None,
        **({"incomplete": True} if not body.endswith(b"\n") and body else {}),
    }
    assert fake_client.keys("*") == []


@pytest.mark.parametrize(
    "rest",
    [b"data: 2", b"data: 2\n", b"dat", b"event: a\n", b"data: \xe5\x88", b": pi", b"data:\xff"],
)
def test_an_event_that_is_not_complete_is_dropped_and_the_answer_says_so(http, fake_store, rest):
    response = send(http, sse(1), rest)
    assert response.status_code == 200
    assert (response.json["stored"], response.json["incomplete"]) == (1, True)
    assert stored_data(fake_store) == [1]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n", b"\n: ping\n", b"\nid: 5\n"])
def test_an_event_is_complete_with_its_empty_line(http, fake_store, end):
    response = send(http, b"data: 1\r\n", end)
    assert (response.json["stored"], response.json.get("incomplete")) == (1, None)


def test_a_body_of_unknown_length_is_read_to_its_end(http):
    response = http.post(
        PATH,
        input_stream=io.BytesIO(sse(1) + sse(2)),
        content_type=SSE,
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert response.json["stored"] == 2


def test_a_payload_is_read_as_it_was_sent(http):
    sent = [
        '{"type":"start"}',
        "two\nlines",
        "",
        " a\u2028b\x85",
        '"text"',
        "分\0😀",
        '{"type":"finish"}',
    ]
    lines = ["".join(f"data: {line}\n" for line in text.split("\n")) for text in sent]
    body = "\n".join([*lines, ""]).encode()
    assert send(http, body, query="dialect=ai-sdk").json["stored"] == len(sent)
    read = http.get(f"{PATH}/stream?format=payload").data
    assert [event.data for event in SseParser().feed(read)] == sent


# How a run begins and ends


def c(kind: str) -> dict:
    return {"type": kind}


# The dialect, the chunks, and the names of what is stored of them.
STREAMS = [
    ("raw", ["start", "finish"], ["sse.message", "sse.message"]),
    ("raw", ["finish", DONE], ["sse.message", "lifecycle.completed"]),
    ("raw", [DONE, DONE], ["lifecycle.completed"]),
    ("ai-sdk", ["start", "text-delta"], ["lifecycle.started", "sse.message"]),
    ("ai-sdk", ["start", "start"], ["lifecycle.started", "sse.message"]),
    ("ai-sdk", ["text-delta", "start"], ["sse.message", "sse.message"]),
    ("ai-sdk", ["start", "finish"], ["lifecycle.started", "lifecycle.completed"]),
    ("ai-sdk", ["start", "finish", DONE], ["lifecycle.started", "lifecycle.completed"]),
    ("ai-sdk", ["start", "abort", DONE], ["lifecycle.started", "lifecycle.cancelled"]),
    ("ai-sdk", ["start", "error"], ["lifecycle.started", "lifecycle.failed"]),
    ("ai-sdk", ["error", "finish", DONE], ["sse.message", "lifecycle.failed"]),
    ("ai-sdk", ["error", "abort"], ["sse.message", "lifecycle.failed"]),
    ("ai-sdk", ["error", "text-delta"], ["sse.message", "sse.message", "lifecycle.failed"]),
    ("ai-sdk", ["error", "text-delta", DONE], ["sse.message", "sse.message", "lifecycle.failed"]),
    ("ai-sdk", ["finish", "text-delta"], ["sse.message", "sse.message"]),
    ("ai-sdk", ["finish", "finish"], ["sse.message", "lifecycle.completed"]),
    ("ai-sdk", ["abort", "finish"], ["sse.message", "lifecycle.completed"]),
    ("ai-sdk", [DONE], ["lifecycle.completed"]),
    ("ag-ui", ["RUN_STARTED", "RUN_FINISHED"], ["lifecycle.started", "lifecycle.completed"]),
    (
        "ag-ui",
        ["RUN_STARTED", "RUN_FINISHED", "RUN_STARTED", "RUN_FINISHED"],
        ["lifecycle.started", "sse.message", "sse.message", "lifecycle.completed"],
    ),
    ("ag-ui", ["RUN_ERROR"], ["lifecycle.failed"]),
    ("ag-ui", ["start", "finish", "error"], ["sse.message"] * 3),
    ("openai", ["response.created"], ["lifecycle.started"]),
    ("openai", ["response.completed"], ["lifecycle.completed"]),
    ("openai", ["response.incomplete"], ["lifecycle.completed"]),
    ("openai", ["response.failed"], ["lifecycle.failed"]),
    ("openai", ["error"], ["lifecycle.failed"]),
    ("openai", ["chat.completion.chunk", DONE], ["sse.message", "lifecycle.completed"]),
    ("langgraph", ["metadata", "end"], ["sse.message", "sse.message"]),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "kinds", "expected"), STREAMS)
def test_chunks_begin_and_end_the_run(http, fake_store, dialect, kinds, expected):
    events = [kind if isinstance(kind, bytes) else chunk(kind) for kind in kinds]
    response = send(http, *events, query=f"dialect={dialect}")
    assert (response.status_code, response.json["stored"]) == (200, len(expected))
    assert names(fake_store) == expected
    data = [{"type": kind} for kind in kinds if not isinstance(kind, bytes)]
    assert stored_data(fake_store) == [*data, None][: len(expected)]
    assert all(event.source is None for event in fake_store.get_events(1))


def test_chunks_of_langgraph_are_known_by_their_names(http, fake_store):
    sent = [("metadata", {"run_id": "1"}), ("values", {"a": 1}), ("end", None)]
    send(http, *(sse(data, name) for name, data in sent), query="dialect=langgraph")
    assert stored(fake_store) == [
        ("lifecycle.started", {"run_id": "1"}, {"sse": {"event": "metadata"}}),
        ("sse.values", {"a": 1}, None),
        ("lifecycle.completed", None, {"sse": {"event": "end"}}),
    ]


def test_an_error_of_langgraph_fails_the_run(http, fake_store):
    send(http, sse("oops", "error"), query="dialect=langgraph")
    source = {"sse": {"event": "error", "text": True}}
    assert stored(fake_store) == [("lifecycle.failed", "oops", source)]


def test_a_chunk_with_a_name_keeps_it_when_it_begins_or_ends_the_run(http, fake_store):
    kinds = ["response.created", "response.completed", "response.completed"]
    send(http, *(sse(c(kind), kind) for kind in kinds), query="dialect=openai")
    assert stored(fake_store) == [
        ("lifecycle.started", c(kinds[0]), {"sse": {"event": kinds[0]}}),
        ("sse.response_completed", c(kinds[1]), {"sse": {"event": kinds[1]}}),
        ("lifecycle.completed", c(kinds[2]), {"sse": {"event": kinds[2]}}),
    ]


@pytest.mark.parametrize("data", ['"finish"', "finish", "[]", '{"type": 5}', '{"type": null}', "1"])
def test_a_chunk_without_a_type_ends_nothing(http, fake_store, data):
    send(http, sse(data), query="dialect=ai-sdk")
    assert names(fake_store) == ["sse.message"]


def test_a_chunk_that_begins_an_answer_reopens_the_run(http, fake_store):
    fake_store.add(1, "lifecycle", "completed")
    assert send(http, chunk("start"), chunk("finish"), query="dialect=ai-sdk").status_code == 200
    assert names(fake_store)[1:] == ["lifecycle.started", "lifecycle.completed"]
    response = send(http, chunk("text-delta"), chunk("start"), query="dialect=ai-sdk")
    check_refusal(response, 409, line=1, stored=0)


@pytest.mark.parametrize("query", ["", "dialect=ai-sdk"])
def test_events_after_the_end_are_refused(http, fake_store, query):
    body = [sse(1), DONE, b": ping\n\n", DONE, chunk("start"), sse(2)]
    response = send(http, *body, query=query)
    assert check_refusal(response, 409, line=9, stored=2) == []
    assert names(fake_store) == ["sse.message", "lifecycle.completed"]


@pytest.mark.parametrize("body", [[sse(1)], [DONE], [chunk("finish")], [b": x\n\n", sse(1)]])
def test_events_for_an_ended_run_are_refused(http, fake_store, body):
    fake_store.add(1, "lifecycle", "failed")
    response = send(http, *body, query="dialect=ai-sdk")
    check_refusal(response, 409, line=1 + 2 * (len(body) - 1), stored=0)
    assert len(fake_store.get_events(1)) == 1


def test_a_chunk_that_is_held_back_is_an_append_of_many(http, fake_store):
    """The line where an append is cut does not matter to what is held."""
    for ordinary in (498, 499, 500, 501):
        http.delete(PATH)
        body = [*map(sse, range(ordinary)), chunk("finish"), *map(sse, range(600)), chunk("finish")]
        assert send(http, *body, query="dialect=ai-sdk").json["stored"] == ordinary + 602
        found = names(fake_store)
        assert (found.count("sse.message"), found[-1]) == (ordinary + 601, "lifecycle.completed")


# What ends a request


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(
    ("bad", "status", "fields", "line"),
    [
        (b"data: \xff\n\n", 400, ["body"], 0),
        (b"data: a\ndata: \xc3\n\n", 400, ["body"], 0),
        (b": \xff\n\n", 400, ["body"], 0),
        (b"event: \xff\n\n", 400, ["body"], 0),
        (b"\n\nid: \xff\n\n", 400, ["body"], 2),
        (b"data: " + b"x" * 262_145 + b"\n\n", 413, ["data"], 0),
        (b"data: " + b"x" * 1_000_000 + b"\n\n", 413, ["data"], 0),
        (
            b": ping\n" + b"data: 123456789012345678901234567890\n" * 10_000 + b"\n",
            413,
            ["data"],
            1,
        ),
        (b"event: " + b"x" * 262_145 + b"\n\n", 413, ["data"], 0),
        (b": " + b"x" * 4_194_304 + b"\n\n", 413, ["body"], 0),
        (b"data: " + b"x" * 9_000_000 + b"\n\n", 413, ["body"], 0),
        (b"data: " + b"x" * 9_000_000, 413, ["body"], 0),
    ],
    ids=lambda each: str(each)[:20],
)
def test_a_bad_event_ends_the_request_and_earlier_events_stay_stored(
    http, fake_store, bad, status, fields, line, held
):
    before = [chunk("start"), chunk("finish")] if held else [chunk("start")]
    response = send(http, *before, bad, sse("after"), query="dialect=ai-sdk")
    line += 2 * len(before) + 1
    assert check_refusal(response, status, line, stored=len(before)) == fields
    assert names(fake_store) == ["lifecycle.started", "lifecycle.completed"][: len(before)]


@pytest.mark.parametrize("name", ["", "finish.chunk"])
def test_an_event_that_is_too_large_as_json_is_refused(http, fake_store, name):
    text = "\0" * 100_000  # six times as long as JSON
    response = send(http, chunk("finish"), sse(text, name), query="dialect=ai-sdk")
    assert check_refusal(response, 413, line=3, stored=1) == ["data"]
    assert names(fake_store) == ["sse.message"], "another event followed"


def test_an_event_may_have_the_largest_size(http, fake_store):
    source = len(b'{"sse":{"text":true}}')
    text = "x" * (262_144 - source - 2)
    assert send(http, sse(text)).json["stored"] == 1
    check_refusal(send(http, sse(text + "x")), 413, line=1, stored=0)
    kind = json.dumps({"type": "finish", "pad": ""}, separators=(",", ":"))
    pad = "x" * (262_144 - len(kind))
    assert send(http, chunk("finish", pad=pad), query="dialect=ai-sdk").status_code == 413
    chunk_of = sse(json.dumps({"type": "finish", "pad": pad}, separators=(",", ":")))
    assert send(http, chunk_of, query="dialect=ai-sdk").json["stored"] == 1
    http.delete(PATH)
    named = chunk_of.replace(b"data:", b"event: finish\ndata:")
    check_refusal(send(http, named, query="dialect=ai-sdk"), 413, line=1, stored=0)


def test_ten_thousand_data_lines_are_one_event(http, fake_store):
    assert send(http, b"data: 1234567890\n" * 10_000, b"\n").json["stored"] == 1
    assert stored_data(fake_store) == ["\n".join(["1234567890"] * 10_000)]


def test_a_body_that_breaks_off_stores_what_is_complete_and_ends_no_run(http, fake_store):
    body = sse(1) + b": ping\n\nevent: a\ndata: 2\n"
    for dialect in ("raw", "ai-sdk"):
        response = send(http, body, query=f"dialect={dialect}", **broken(body))
        check_refusal(response, 400, line=5, stored=1)
    assert names(fake_store) == ["sse.message"] * 2


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["finish"], ["lifecycle.completed"]),
        (["error"], ["lifecycle.failed"]),
        (["error", "text-delta"], ["sse.message", "sse.message"]),
        (["finish", "text-delta"], ["sse.message", "sse.message"]),
    ],
)
@pytest.mark.parametrize("rest", [b"", b"data: 3", b"data: 3\n", b"\n: ping\n"])
def test_a_chunk_that_is_held_ends_the_run_when_the_body_breaks_off(
    http, fake_store, kinds, expected, rest
):
    body = b"".join(map(chunk, kinds)) + rest
    response = send(http, body, query="dialect=ai-sdk", **broken(body))
    line = body.count(b"\n") + 1 - (rest == b"data: 3\n")
    check_refusal(response, 400, line=line, stored=len(expected))
    assert names(fake_store) == expected


# The parameters


@pytest.mark.parametrize("dialect", ["", "AI-SDK", "json", "ai_sdk", "raw ", "x" * 1000])
def test_an_unknown_dialect_is_400(http, fake_client, dialect):
    response = send(http, sse(1), query=f"dialect={dialect}")
    assert response.status_code == 400
    [error] = response.json["errors"]
    assert error["field"] == "dialect"
    assert "ai-sdk" in error["detail"]
    assert fake_client.keys("*") == []


@pytest.mark.parametrize("lease", ["0", "-1", "x", "", "1.5", "9" * 30, "31536000001"])
def test_a_wrong_lease_is_400(http, fake_client, lease):
    response = send(http, sse(1), query=f"lease_seconds={lease}")
    assert (response.status_code, fake_client.keys("*")) == (400, [])
    assert [error["field"] for error in response.json["errors"]] == ["lease_seconds"]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize(("name", "value"), [("dialect", "raw"), ("lease_seconds", "5")])
def test_the_parameters_of_sse_do_not_stand_beside_json(
    http, fake_client, content_type, name, value
):
    event = b'{"event_category": "a", "event_action": "b"}'
    response = send(http, event, query=f"{name}={value}", content_type=content_type)
    assert (response.status_code, fake_client.keys("*")) == (400, [])
    assert [error["field"] for error in response.json["errors"]] == [name]


@pytest.mark.parametrize(
    ("options", "status", "field"),
    [
        ({"headers": {"Idempotency-Key": "k"}}, 400, "Idempotency-Key"),
        ({"content_type": f"{SSE}; charset=utf-16"}, 415, "Content-Type"),
        ({"content_type": "text/event-streams"}, 415, "Content-Type"),
        ({"content_type": "text/plain"}, 415, "Content-Type"),
        ({"headers": {"Content-Encoding": "gzip"}}, 415, "Content-Encoding"),
    ],
)
def test_a_wrong_header_is_refused_before_an_event_is_read(
    http, fake_client, options, status, field
):
    response = send(http, sse(1), **options)
    assert (response.status_code, fake_client.keys("*")) == (status, [])
    assert [error["field"] for error in response.json["errors"]] == [field]


def test_requests_to_a_producer_and_lists_of_runs_are_no_streams(http, fake_store):
    fake_store.add(1, "a", "b")
    for path in ("/runs/1/requests", "/events/stream"):
        assert http.post(path, data=sse(1), content_type=SSE).status_code == 415


def test_the_lease_is_that_of_every_event_until_the_run_ends(http, fake_client):
    body = [chunk("start"), sse(1), chunk("finish")]
    send(http, *body, query="dialect=ai-sdk&lease_seconds=30")
    send(http, chunk("start"), query="dialect=ai-sdk")
    leases = [fields.get(b"lease_seconds") for _, fields in fake_client.xrange("run:1:events")]
    assert leases[:2] == [b"30", b"30"]
    assert leases[-1] is None


def test_the_expected_sequence_is_that_of_the_first_event_and_advances(http, fake_store):
    body = [chunk("start"), *map(sse, range(1200)), chunk("finish")]
    query = "dialect=ai-sdk&expected_sequence="
    assert send(http, *body, query=f"{query}1").json["last_sequence"] == 1202
    response = send(http, b": ping\n\n", chunk("start"), query=f"{query}1202")
    check_refusal(response, 409, line=3, stored=0)
    assert response.json["last_sequence"] == 1202


def test_the_traceparent_of_the_request_is_that_of_every_event(http, fake_store):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    send(http, chunk("start"), DONE, query="dialect=ai-sdk", headers={"traceparent": trace})
    assert [event.traceparent for event in fake_store.get_events(1)] == [trace] * 2


# Failures of Redis and of the gateway


class FailingStore(EventStore):
    """A store whose appends fail from the second one on."""

    appends = 0

    def append_each(self, appends):
        self.appends += 1
        if self.appends >= 2:
            return [StoreUnavailable("Redis does not answer", None)] * len(appends)
        return super().append_each(appends)


def test_a_held_chunk_that_cannot_be_stored_is_named_by_its_line(fake_client):
    http = create_app(Settings(), event_store=FailingStore(client=fake_client)).test_client()
    response = send(http, *map(sse, range(500)), chunk("finish"), query="dialect=ai-sdk")
    assert check_refusal(response, 503, line=1001, stored=500) == []
    assert response.json["unknown"] == 1
    assert "incomplete" not in response.json


@pytest.mark.parametrize(
    "body",
    [
        sse(1) * 10,
        sse(1) + b"data: x",
        sse(1) + b"data: \xff\n\n",
        chunk("finish", pad="x" * 200_000) * 30,
        chunk("error") + sse(1),
        b"data: " + b"x" * 5_000_000,
        b"",
    ],
)
def test_an_ended_request_releases_everything_it_reserved(http, body):
    gateway = http.application.extensions["tailrace"]
    send(http, body, query="dialect=ai-sdk")
    admission = gateway.admission
    assert (admission.bytes.held, admission.appends.held, len(gateway.streams)) == (0, 0, 0)


class Pieces:
    """A body that comes in pieces, and notes what `look` returns before each."""

    def __init__(self, *pieces: bytes, look=lambda: None):
        self._pieces = list(pieces)
        self._look = look
        self.seen: list = []

    def read(self, size: int = -1) -> bytes:
        self.seen.append(self._look())
        return self._pieces.pop(0) if self._pieces else b""

    def options(self) -> dict:
        environ = {"wsgi.input": self, "wsgi.input_terminated": True}
        return {"environ_overrides": environ}


def test_what_is_held_of_an_event_counts_as_bytes_of_the_worker(fake_store):
    app = create_app(Settings(), event_store=fake_store)
    admission = app.extensions["tailrace"].admission
    text = "x" * 50_000
    line, held = b"data: %b\n" % text.encode(), chunk("finish", pad=text)
    pieces = Pieces(line, b"data: y\n\n", held, sse(1), look=lambda: admission.bytes.held)
    send(app.test_client(), query="dialect=ai-sdk", **pieces.options())
    sizes = [bool(size >= 50_000) for size in pieces.seen]
    assert sizes == [False, True, False, True, False]
    assert (pieces.seen[0], pieces.seen[2], admission.bytes.held) == (0, 0, 0)
    assert names(fake_store) == ["sse.message"] * 3


def test_a_line_that_takes_too_long_is_408_and_ends_the_run_that_had_ended(
    http, fake_store, monkeypatch
):
    monkeypatch.setattr(json_body, "READ_SECONDS", 0.0)

    pieces = Pieces(chunk("finish"), b"da", b"t", b"a")
    response = send(http, query="dialect=ai-sdk", **pieces.options())
    check_refusal(response, 408, line=3, stored=1)
    assert names(fake_store) == ["lifecycle.completed"]
