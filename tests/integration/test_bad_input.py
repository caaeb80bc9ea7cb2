"""Bad and odd input at a real gateway: huge, broken and cut-off bodies, data that breaks lines."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator

import psutil
import pytest
import requests

from tests.clients import Stream
from tests.servers import GatewayServer, wait_until

MB = 1_000_000
PIECE = b"x" * MB
GROWTH = 64 * MB  # of a worker's memory, whatever the size of the body

OPENING = b'{"event_category": "llm", "event_action": "stream", "data": "'
JSON_TYPE = {"Content-Type": "application/json"}


class Body:
    """A body of so many megabytes, made as it is sent, that looks at the gateway's memory."""

    def __init__(self, worker: psutil.Process, megabytes: int):
        self.largest = 0
        self._worker = worker
        self._megabytes = megabytes

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self._megabytes):
            self.largest = max(self.largest, self._worker.memory_info().rss)
            yield PIECE

    def __len__(self) -> int:
        return self._megabytes * MB


def send_raw(gateway: GatewayServer, path: str, body: Body, announced: bool) -> tuple[int, bytes]:
    """Send as a client that stops at the first failed write, and then reads the answer."""
    length = f"Content-Length: {len(body)}" if announced else "Transfer-Encoding: chunked"
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as connection:
        connection.sendall(head.encode())
        with contextlib.suppress(OSError):
            for piece in body:
                connection.sendall(piece if announced else b"%x\r\n%b\r\n" % (len(piece), piece))
            if not announced:
                connection.sendall(b"0\r\n\r\n")
        return answer_of(connection)


def send_http_client(
    gateway: GatewayServer, path: str, body: Body, announced: bool
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    headers = JSON_TYPE | ({"Content-Length": str(len(body))} if announced else {})
    with contextlib.suppress(BrokenPipeError):  # the answer is there to be read all the same
        connection.request("POST", path, body=iter(body), headers=headers)
    answer = connection.getresponse()
    document = answer.read()
    connection.close()
    return answer.status, document


def send_requests(
    gateway: GatewayServer, path: str, body: Body, announced: bool
) -> tuple[int, bytes]:
    headers = JSON_TYPE | ({"Content-Length": str(len(body))} if announced else {})
    data = body if announced else iter(body)
    answer = requests.post(f"{gateway.url}{path}", data=data, headers=headers, timeout=60)
    return answer.status_code, answer.content


def answer_of(connection: socket.socket) -> tuple[int, bytes]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
@pytest.mark.parametrize("send", [send_raw, send_http_client, send_requests])
@pytest.mark.parametrize("megabytes", [5, 500])
def test_a_body_far_over_the_limit_is_413_and_takes_no_memory(
    gateway, store, run_id, megabytes, send, announced
):
    [worker] = gateway.workers()
    before = worker.memory_info().rss
    body = Body(worker, megabytes)
    status, document = send(gateway, f"/runs/{run_id}/events", body, announced)
    assert status == 413
    assert json.loads(document)["status"] == 413
    assert max(body.largest, worker.memory_info().rss) < before + GROWTH
    assert gateway.workers() == [worker]
    assert requests.get(f"{gateway.url}/healthz", timeout=10).ok
    assert not store.state(run_id).exists


def test_a_huge_body_does_not_hold_up_the_others(gateway, store, run_id):
    """While one sends without end, another appends."""
    head = f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
        connection.sendall(b"%x\r\n%b" % (1000 * MB, PIECE * 3))
        names = {"event_category": "llm", "event_action": "stream"}
        answer = requests.post(f"{gateway.url}/runs/{run_id}/events", json=names, timeout=10)
        assert answer.status_code == 201
    assert store.state(run_id).length == 1


def exchange(gateway: GatewayServer, run_id: str, header: str, body: bytes) -> tuple[int, bytes]:
    """Send a request as it is, end the sending, and read the answer."""
    head = f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(f"{head}{header}\r\n\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        return answer_of(connection)


CHUNKED = "Transfer-Encoding: chunked"
WHOLE = OPENING + b'"}'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_a_well_formed_chunked_body_is_appended(gateway, store, run_id):
    body = chunk(WHOLE[:10]) + chunk(WHOLE[10:]) + b"0\r\n\r\n"
    status, document = exchange(gateway, run_id, CHUNKED, body)
    assert (status, json.loads(document)["sequence"]) == (201, 1)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (CHUNKED, b"zz\r\n" + WHOLE),
        (CHUNKED, b"-5\r\n" + WHOLE),
        (CHUNKED, b"\r\n" + WHOLE),
        (CHUNKED, b"0x10\r\n" + WHOLE),
        (CHUNKED, b"%x\r\n%bXX0\r\n\r\n" % (len(WHOLE), WHOLE)),
        (CHUNKED, chunk(WHOLE)),
        (CHUNKED, chunk(WHOLE) + b"5\r\nab"),
        (CHUNKED, b"%x\r\n%b" % (len(WHOLE) + 100, WHOLE)),
        (CHUNKED, b""),
        (f"Content-Length: {len(WHOLE) + 100}", WHOLE),
        ("Content-Length: 100", b""),
        ("Content-Length: 0", b""),
        ("X-Nothing: announced", b""),
    ],
)
def test_a_body_that_is_malformed_or_cut_off_is_400_and_stores_nothing(
    gateway, store, run_id, header, body
):
    status, document = exchange(gateway, run_id, header, body)
    assert status == 400
    assert json.loads(document)["status"] == 400
    assert not store.state(run_id).exists
    assert requests.get(f"{gateway.url}/healthz", timeout=10).ok


@pytest.mark.parametrize("sent", [b"", WHOLE])
def test_a_client_that_vanishes_while_it_sends_stores_nothing(gateway, store, run_id, sent):
    [worker] = gateway.workers()
    before = worker.num_fds()
    head = f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + sent)
        wait_until(lambda: worker.num_fds() > before, "the gateway has taken the connection")
    wait_until(lambda: worker.num_fds() <= before, "the gateway has let the connection go")
    assert not store.state(run_id).exists


@pytest.mark.parametrize("size", [262_144, 3 * MB])
def test_an_event_over_the_limit_in_a_chunked_body_is_413(gateway, store, run_id, size):
    body = chunk(OPENING) + chunk(b"x" * size) + chunk(b'"}') + b"0\r\n\r\n"
    status, document = exchange(gateway, run_id, CHUNKED, body)
    assert status == 413
    assert [error["field"] for error in json.loads(document)["errors"]] == ["data"]
    assert not store.state(run_id).exists


def test_an_event_just_under_the_limit_in_a_chunked_body_is_appended(gateway, store, run_id):
    body = chunk(OPENING) + chunk(b"x" * 262_000) + chunk(b'"}') + b"0\r\n\r\n"
    assert exchange(gateway, run_id, CHUNKED, body)[0] == 201
    assert len(store.get_events(run_id)[0].data) == 262_000


# Data that breaks lines

ODD_TEXTS = [
    *(
        "a\rb",
        "a\nb",
        "a\r\nb",
        "a\u2028b",
        "a\u2029b",
        "a\x85b",
        "a\0b",
        "😀",
        "\ufeffa",
        "\ufeff",
    ),
    *("\n\nevent: x\ndata: y\n\n", "\r\rid: 9-9\r\r", ": comment", "\x0b\x0c\x1c\x1d\x1e\x1f\x7f"),
    *("data: x\n\n", "\n", "\\u2028", "</script>", "\U0010ffff", "e\u0301", " leading", ""),
]


@pytest.fixture
def odd_run(gateway: GatewayServer, run_id: str) -> str:
    """The path of an ended run with one event for each odd text, as data, key and source."""
    path = f"{gateway.url}/runs/{run_id}/events"
    for text in ODD_TEXTS:
        event = {"event_category": "llm", "event_action": "stream"}
        answer = requests.post(path, json={**event, "data": {text: [text]}, "source": text})
        assert answer.status_code == 201
    end = {"event_category": "lifecycle", "event_action": "completed"}
    assert requests.post(path, json=end).status_code == 201
    return path


def check_whole(events: list[dict]) -> None:
    """One event for each text, with all of it, and then the end of the run."""
    assert [event["sequence"] for event in events] == list(range(1, len(ODD_TEXTS) + 2))
    *odd, end = events
    assert [event["data"] for event in odd] == [{text: [text]} for text in ODD_TEXTS]
    assert [event["source"] for event in odd] == ODD_TEXTS
    assert end["event"] == {"category": "lifecycle", "action": "completed"}


@pytest.mark.parametrize("query", ["", "typed=false"])
def test_odd_data_reaches_an_event_stream_whole_and_as_one_event(odd_run, query):
    with Stream(f"{odd_run}/stream?{query}") as stream:
        stream.wait_for_end()
    check_whole([message.json for message in stream.events])
    assert [control.event for control in stream.controls] == ["gateway.caught_up"]


def test_odd_data_reaches_a_stream_live_whole_and_as_one_event(gateway, store, run_id):
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_control("caught_up")
        for text in ODD_TEXTS:
            store.add(run_id, "llm", "stream", {text: [text]}, text)
        store.add(run_id, "lifecycle", "completed")
        stream.wait_for_end()
    check_whole([message.json for message in stream.events])


def test_odd_data_reaches_a_reader_of_json_lines_whole_and_as_one_event(odd_run):
    headers = {"Accept": "application/x-ndjson"}
    lines = requests.get(f"{odd_run}/stream", headers=headers, timeout=20).text.splitlines()
    events = [json.loads(line) for line in lines]
    check_whole([event for event in events if event["event"]["category"] != "gateway"])


@pytest.mark.parametrize("chunk_size", [1, 512, 100_000])
def test_odd_data_reaches_the_lines_of_requests_whole_and_as_one_event(odd_run, chunk_size):
    """As the quickstart's client reads: every line that begins with `data:` is an event."""
    events = []
    with requests.get(f"{odd_run}/stream", stream=True, timeout=20) as answer:
        for line in answer.iter_lines(chunk_size, decode_unicode=True):
            if line.startswith("data:"):
                events.append(json.loads(line[5:].strip()))
            else:
                assert line.partition(":")[0] in ("", "id", "event", "retry")
    check_whole([event for event in events if event["event"]["category"] != "gateway"])


def test_odd_data_is_whole_in_the_history(odd_run):
    check_whole(requests.get(odd_run).json()["events"])


@pytest.mark.parametrize(
    "raw", ['{\r\n"a":\n"\u2028"}', "{'a': \n\n1}", "\ufeff{}", "\n\nevent: x"]
)
def test_raw_line_breaks_that_others_stored_reach_a_stream_as_one_event(
    gateway, redis_client, run_id, raw
):
    end = {"event_category": "lifecycle", "event_action": "completed"}
    redis_client.xadd(f"run:{run_id}:events", {**end, "data": raw})
    with requests.get(f"{gateway.url}/runs/{run_id}/events/stream", timeout=20) as answer:
        answer.encoding = "utf-8"
        lines = answer.text.splitlines()
    [data, _] = [line[5:] for line in lines if line.startswith("data:")]
    try:
        expected = json.loads(raw)
    except ValueError:
        expected = raw
    assert json.loads(data)["data"] == expected
    assert {line.partition(":")[0] for line in lines} == {"", "id", "event", "retry", "data"}


def test_broken_http_does_not_harm_the_gateway(gateway):
    for sent in (
        b"\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /runs/1/events HTTP/9.9\r\n\r\n",
        b"\r\n",
    ):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            list(iter(lambda: connection.recv(65536), b""))  # until it hangs up
    assert requests.get(f"{gateway.url}/healthz", timeout=10).ok


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b'GET /\xff HTTP/1.1\r\n<script>: "\r\n\r\n', 400),
        (b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * 9000), 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * 9000), 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
    ],
)
def test_what_is_hardly_http_is_refused_in_the_shape_of_all_errors(gateway, sent, status):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        problem = json.loads(answer.read())
    assert (answer.status, problem["status"]) == (status, status)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["title"]
    assert problem["detail"]
