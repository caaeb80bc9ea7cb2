"""Bad input at a real gateway: huge, broken and incomplete bodies, and broken HTTP."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator

import psutil
import pytest
import requests

from tests.servers import GatewayServer, wait_until

MB = 1_000_000
PIECE = b"x" * MB
MAX_GROWTH = 64 * MB  # of a worker's memory, for a body of any size

OPENING = b'{"event_category": "llm", "event_action": "stream", "data": "'
JSON_TYPE = {"Content-Type": "application/json"}


class Body:
    """A body made while it is sent. It records the largest memory of the gateway's worker."""

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


def send_raw(gateway: GatewayServer, path: str, body: Body, with_length: bool) -> tuple[int, bytes]:
    """Send until a write fails, and then read the answer."""
    length = f"Content-Length: {len(body)}" if with_length else "Transfer-Encoding: chunked"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\n{length}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as connection:
        connection.sendall(head.encode())
        with contextlib.suppress(OSError):
            for piece in body:
                connection.sendall(piece if with_length else b"%x\r\n%b\r\n" % (len(piece), piece))
            if not with_length:
                connection.sendall(b"0\r\n\r\n")
        return answer_of(connection)


def send_http_client(
    gateway: GatewayServer, path: str, body: Body, with_length: bool
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    headers = JSON_TYPE | ({"Content-Length": str(len(body))} if with_length else {})
    with contextlib.suppress(BrokenPipeError):  # the answer can still be read
        connection.request("POST", path, body=iter(body), headers=headers)
    answer = connection.getresponse()
    document = answer.read()
    connection.close()
    return answer.status, document


def send_requests(
    gateway: GatewayServer, path: str, body: Body, with_length: bool
) -> tuple[int, bytes]:
    headers = JSON_TYPE | ({"Content-Length": str(len(body))} if with_length else {})
    data = body if with_length else iter(body)
    answer = requests.post(f"{gateway.url}{path}", data=data, headers=headers, timeout=60)
    return answer.status_code, answer.content


def answer_of(connection: socket.socket) -> tuple[int, bytes]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


@pytest.mark.parametrize("with_length", [True, False], ids=["with length", "chunked"])
@pytest.mark.parametrize("send", [send_raw, send_http_client, send_requests])
@pytest.mark.parametrize("megabytes", [5, 500])
def test_a_body_far_over_the_limit_is_413_and_takes_no_memory(
    gateway, store, run_id, megabytes, send, with_length
):
    [worker] = gateway.workers()
    before = worker.memory_info().rss
    body = Body(worker, megabytes)
    status, document = send(gateway, f"/runs/{run_id}/events", body, with_length)
    assert status == 413
    assert json.loads(document)["status"] == 413
    assert max(body.largest, worker.memory_info().rss) < before + MAX_GROWTH
    assert gateway.workers() == [worker]
    assert requests.get(f"{gateway.url}/healthz", timeout=10).ok
    assert not store.state(run_id).exists


def test_a_huge_body_does_not_delay_another_append(gateway, store, run_id):
    """The huge body stays incomplete meanwhile."""
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
        connection.sendall(b"%x\r\n%b" % (1000 * MB, PIECE * 3))
        names = {"event_category": "llm", "event_action": "stream"}
        answer = requests.post(f"{gateway.url}/runs/{run_id}/events", json=names, timeout=10)
        assert answer.status_code == 201
    assert store.state(run_id).length == 1


def exchange(gateway: GatewayServer, run_id: str, header: str, body: bytes) -> tuple[int, bytes]:
    """Send a request, close the sending half of the connection, and read the answer."""
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\n"
    )
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
        ("X-No-Length: 1", b""),
    ],
)
def test_a_malformed_or_incomplete_body_is_400_and_stores_nothing(
    gateway, store, run_id, header, body
):
    status, document = exchange(gateway, run_id, header, body)
    assert status == 400
    assert json.loads(document)["status"] == 400
    assert not store.state(run_id).exists
    assert requests.get(f"{gateway.url}/healthz", timeout=10).ok


@pytest.mark.parametrize("sent", [b"", WHOLE])
def test_a_client_that_disconnects_while_it_sends_stores_nothing(gateway, store, run_id, sent):
    [worker] = gateway.workers()
    before = worker.num_fds()
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + sent)
        wait_until(lambda: worker.num_fds() > before, "the gateway has accepted the connection")
    wait_until(lambda: worker.num_fds() <= before, "the gateway has closed the connection")
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
            list(iter(lambda: connection.recv(65536), b""))  # until the gateway closes it
    assert requests.get(f"{gateway.url}/healthz", timeout=10).ok


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b'GET /\xff HTTP/1.1\r\n<script>: "\r\n\r\n', 400),
        (b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * 9000), 414),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: %b\r\n\r\n" % (b"x" * 9000), 431),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: tea\r\n\r\n", 417),
    ],
)
def test_broken_http_is_refused_with_a_problem_document(gateway, sent, status):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        problem = json.loads(answer.read())
    assert (answer.status, problem["status"]) == (status, status)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["title"]
    assert problem["detail"]


@pytest.mark.parametrize(
    ("header", "content_type", "body"),
    [
        (CHUNKED, "application/x-ndjson", chunk(b"{\n") + chunk(WHOLE)),
        (f"Content-Length: {2 * MB}", "application/x-ndjson", b"{\n" + PIECE),
        (CHUNKED, "text/plain", chunk(WHOLE)),
        (f"Content-Length: {600 * MB}", "application/json", WHOLE),
    ],
    ids=["bad line, chunked", "bad line, with length", "bad type", "too large"],
)
def test_an_answer_before_the_end_of_the_body_says_that_the_connection_closes(
    gateway, run_id, header, content_type, body
):
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: {content_type}\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(f"{head}{header}\r\n\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
    assert 400 <= answer.status < 500
    assert answer.headers["Connection"] == "close"


def test_a_page_cannot_reach_a_gateway_on_loopback_by_dns_rebinding(gateway, store, run_id):
    """The browser takes the gateway for the page's own origin."""
    store.add(run_id, "llm", "stream")
    url = f"{gateway.url}/runs/{run_id}/events"
    page = {"Host": f"evil.example:{gateway.port}", "Origin": f"http://evil.example:{gateway.port}"}
    body = {"event_category": "llm", "event_action": "stream"}
    assert requests.post(url, json=body, headers=page).status_code == 421
    assert requests.delete(url, headers=page).status_code == 421
    assert requests.get(f"{url}/stream", headers=page).status_code == 421
    assert len(store.get_events(run_id)) == 1


@pytest.mark.parametrize(("headers", "status"), [(7, 200), (9, 431), (95, 431)])
@pytest.mark.parametrize("size", [0, 900_000])
def test_all_headers_of_a_request_together_are_limited(gateway, run_id, size, headers, status):
    """Also when gunicorn has all of them in its buffer, behind the body before."""
    first = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    )
    line = b"Accept: %b\r\n" % b",".join([b"a/b"] * 2000)
    second = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (line * headers)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        with contextlib.suppress(OSError):  # it is refused before its end
            connection.sendall(first.encode() + b" " * size + second)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while received.count(b"HTTP/1.1 ") < 2:
                piece = connection.recv(65536)
                if not piece:
                    break
                received += piece
    statuses = [answer[:3] for answer in received.split(b"HTTP/1.1 ")[1:]]
    # A client that sends more than is read may see a reset in place of the refusal.
    allowed = [[b"400", b"200"]] if status == 200 else [[b"400", b"431"], [b"400"]]
    assert statuses in allowed
    assert requests.get(f"{gateway.url}/healthz", timeout=10).ok
