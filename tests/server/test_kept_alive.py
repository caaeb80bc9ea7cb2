"""Connections between two requests: whole requests to the handler, all others to gunicorn."""

import contextlib
import re
import socket
from types import SimpleNamespace

import gevent.event
import gevent.socket
import pytest

from app.server import kept_alive
from app.server.connections import Connections
from app.server.kept_alive import KeptAlive, KeptConnection
from app.streaming.follow import client_socket

HEAD = b"POST /plain HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
FOREIGN = b"GET / HTTP/1.1\r\n\r\n"


class Handler:
    """Answers requests of /plain with their bodies, once it may."""

    begins = b"POST /plain"

    def __init__(self) -> None:
        self.rounds: list[list[bytes]] = []
        self.may = gevent.event.Event()
        self.may.set()
        self.error: Exception | None = None
        self.closes = False
        self.slow_lengths: set[int] = set()  # of the bodies of a lane that stands still
        self.slow_may = gevent.event.Event()

    def head_of(self, head: bytes) -> SimpleNamespace | None:
        match = re.fullmatch(rb"POST /plain HTTP/1.1\r\nContent-Length: (\d+)\r\n\r\n", head)
        return SimpleNamespace(length=int(match[1])) if match else None

    def lane_of(self, head: SimpleNamespace) -> str:
        return "slow" if head.length in self.slow_lengths else ""

    def handle(self, requests: list[KeptConnection]) -> None:
        if len(requests[0].body) in self.slow_lengths:
            self.slow_may.wait()
        self.may.wait()
        self.rounds.append([bytes(request.body) for request in requests])
        if self.error is not None:
            raise self.error
        for request in requests:
            if request.body == b"give":
                request.give_up()
            else:
                request.answer(b"<%b>" % request.body, self.closes)


class Kept:
    """Kept connections, and what was given to gunicorn."""

    def __init__(self) -> None:
        self.handler = Handler()
        self.connections = Connections(8)
        self.given: list[bytes] = []
        self.kept = KeptAlive(self.connections, self.handler, self._give)

    def _give(self, connection: KeptConnection) -> None:
        self.given.append(connection.buffer)
        connection.socket.close()

    def connect(self) -> gevent.socket.socket:
        client, accepted = gevent.socket.socketpair()
        client.settimeout(20)
        raw = kept_alive._socket.socket(accepted.family, accepted.type, 0, accepted.detach())
        self.kept.add(None, raw, "address")
        return client


@pytest.fixture
def kept(monkeypatch) -> Kept:
    monkeypatch.setattr(kept_alive, "PATIENCE_SECONDS", 60)
    monkeypatch.setattr(kept_alive, "CHECK_SECONDS", 0.01)
    return Kept()


@pytest.fixture
def impatient(kept, monkeypatch) -> Kept:
    monkeypatch.setattr(kept_alive, "PATIENCE_SECONDS", 0.05)
    return kept


def request(body: bytes) -> bytes:
    return HEAD % len(body) + body


def received(client: gevent.socket.socket) -> bytes:
    """Return what comes next, b"" at the end."""
    return client.recv(1 << 20)


def settle(seconds: float = 0.02) -> None:
    gevent.sleep(seconds)


def test_a_lane_that_stands_still_holds_up_no_other(kept):
    kept.handler.slow_lengths = {3}
    with kept.connect() as slow, kept.connect() as first, kept.connect() as second:
        slow.sendall(request(b"111"))
        for client in (first, second, first):
            client.sendall(request(b"22"))
            assert received(client) == b"<22>"
        kept.handler.slow_may.set()
        assert received(slow) == b"<111>"
    assert not kept.given


@pytest.fixture
def lanes(kept, monkeypatch) -> Kept:
    """Connections whose requests are spread over two lanes, both of which are idle."""
    monkeypatch.setattr(kept_alive, "GATHER_SECONDS", 60.0)
    monkeypatch.setattr(kept_alive, "ALONE_SECONDS", 60.0)
    kept.handler.slow_lengths = {3}
    kept.handler.slow_may.set()
    with kept.connect() as client:
        client.sendall(request(b"111"))
        assert received(client) == b"<111>"
    kept.handler.rounds.clear()
    return kept


def two_come_while_one_is_handled(kept: Kept, clients: list[gevent.socket.socket]) -> None:
    kept.handler.may.clear()
    for number, client in enumerate(clients):
        client.sendall(request(b"%d" % number))
        settle()
    kept.handler.may.set()
    assert received(clients[0]) == b"<0>"


def test_one_of_several_lanes_waits_for_those_that_were_just_answered(lanes):
    with lanes.connect() as a, lanes.connect() as b, lanes.connect() as c:
        two_come_while_one_is_handled(lanes, [a, b, c])
        settle()
        assert lanes.handler.rounds == [[b"0"]]
        a.sendall(request(b"3"))
        assert [received(each) for each in (a, b, c)] == [b"<3>", b"<1>", b"<2>"]
        assert lanes.handler.rounds[1:] == [[b"1", b"2", b"3"]]
        for last in (c, b):  # again and again
            others = [each for each in (a, b, c) if each is not last]
            for each in others:
                each.sendall(request(b"4"))
            settle()
            last.sendall(request(b"5"))
            assert [received(each) for each in (*others, last)] == [b"<4>", b"<4>", b"<5>"]
    assert lanes.handler.rounds[2:] == [[b"4", b"4", b"5"]] * 2


def test_a_lane_waits_for_others_not_for_long(lanes, monkeypatch):
    monkeypatch.setattr(kept_alive, "GATHER_SECONDS", 0.01)
    with lanes.connect() as a, lanes.connect() as b, lanes.connect() as c:
        two_come_while_one_is_handled(lanes, [a, b, c])
        assert [received(each) for each in (b, c)] == [b"<1>", b"<2>"]
        a.sendall(request(b"3"))
        assert received(a) == b"<3>"
    assert lanes.handler.rounds == [[b"0"], [b"1", b"2"], [b"3"]]


def test_a_lane_waits_for_no_more_than_are_enough(lanes, monkeypatch):
    monkeypatch.setattr(kept_alive, "ENOUGH_REQUESTS", 2)
    with lanes.connect() as a, lanes.connect() as b, lanes.connect() as c:
        two_come_while_one_is_handled(lanes, [a, b, c])
        assert [received(each) for each in (b, c)] == [b"<1>", b"<2>"]
        for client in (a, b):
            client.sendall(request(b"3"))
        assert [received(each) for each in (a, b)] == [b"<3>", b"<3>"]
    assert lanes.handler.rounds == [[b"0"], [b"1", b"2"], [b"3", b"3"]]


def test_who_comes_alone_waits_for_nobody(lanes, monkeypatch):
    with lanes.connect() as a, lanes.connect() as b, lanes.connect() as c:
        two_come_while_one_is_handled(lanes, [a, b, c])
        a.sendall(request(b"3"))
        assert [received(each) for each in (a, b, c)] == [b"<3>", b"<1>", b"<2>"]
        monkeypatch.setattr(kept_alive, "ALONE_SECONDS", 0.0)
        a.sendall(request(b"4"))
        assert received(a) == b"<4>"
    assert lanes.handler.rounds[1:] == [[b"1", b"2", b"3"], [b"4"]]


def test_a_lane_that_has_waited_too_long_waits_again(lanes, monkeypatch):
    monkeypatch.setattr(kept_alive, "GATHER_SECONDS", 0.01)
    with lanes.connect() as a, lanes.connect() as b, lanes.connect() as c:
        two_come_while_one_is_handled(lanes, [a, b, c])
        assert [received(each) for each in (b, c)] == [b"<1>", b"<2>"]
        monkeypatch.setattr(kept_alive, "GATHER_SECONDS", 60.0)
        a.sendall(request(b"4"))
        settle()
        b.sendall(request(b"5"))
        assert [received(each) for each in (a, b)] == [b"<4>", b"<5>"]
    assert lanes.handler.rounds == [[b"0"], [b"1", b"2"], [b"4", b"5"]]


def test_a_lane_that_is_not_used_any_more_is_forgotten(kept, monkeypatch):
    monkeypatch.setattr(kept_alive, "UNUSED_SECONDS", 0.0)
    names = iter("abcdef")
    monkeypatch.setattr(kept.handler, "lane_of", lambda head: next(names))
    with kept.connect() as client, kept.connect() as slow:
        for body in (b"1", b"2"):
            client.sendall(request(body))
            assert received(client) == b"<%b>" % body
        assert list(kept.kept._lanes) == ["b"]
        kept.handler.slow_lengths = {3}
        slow.sendall(request(b"333"))
        settle()
        for body in (b"4", b"5"):
            client.sendall(request(body))
            assert received(client) == b"<%b>" % body
        assert list(kept.kept._lanes) == ["c", "e"]  # that of the slow one is in use
        kept.handler.slow_may.set()
        assert received(slow) == b"<333>"


def test_a_client_that_goes_while_a_lane_waits_for_others_harms_nothing(lanes):
    with lanes.connect() as a, lanes.connect() as b:
        with lanes.connect() as c:
            two_come_while_one_is_handled(lanes, [a, b, c])
        a.sendall(request(b"0"))
        assert [received(each) for each in (a, b)] == [b"<0>", b"<1>"]
    assert not lanes.given


def test_a_request_is_answered_at_every_cut(kept):
    whole = request(b"hello")
    for cut in range(len(whole) + 1):
        with kept.connect() as client:
            client.sendall(whole[:cut])
            settle(0.002)
            client.sendall(whole[cut:])
            assert received(client) == b"<hello>"
    assert not kept.given


def test_requests_that_come_meanwhile_are_handled_together(kept):
    kept.handler.may.clear()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(kept.connect()) for _ in range(4)]
        for number, client in enumerate(clients):
            client.sendall(request(b"%d" % number))
            settle()
        kept.handler.may.set()
        assert [received(client) for client in clients] == [b"<0>", b"<1>", b"<2>", b"<3>"]
    assert kept.handler.rounds == [[b"0"], [b"1", b"2", b"3"]]


def test_pipelined_requests_are_answered_in_order(kept):
    with kept.connect() as client:
        client.sendall(b"".join(request(b"%d" % number) for number in range(5)))
        answer = b""
        while len(answer) < 15:
            answer += received(client)
        assert answer == b"<0><1><2><3><4>"


def test_what_follows_a_request_goes_to_gunicorn_after_its_answer(kept):
    with kept.connect() as client:
        client.sendall(request(b"a") + FOREIGN + request(b"b"))
        assert received(client) == b"<a>"
        assert received(client) == b""
        assert kept.given == [FOREIGN + request(b"b")]


@pytest.mark.parametrize(
    "sent",
    [
        FOREIGN,
        b"\r\n",
        b"POST /other",
        b"P\xff",
        b"POST /plain HTTP/1.1\r\nOdd: 1\r\n\r\n",
        HEAD % 17_000,
        b"POST /plain" + b"x" * 3000,
        request(b"give"),
    ],
)
def test_what_the_handler_does_not_know_goes_to_gunicorn_unread(kept, sent):
    with kept.connect() as client:
        client.sendall(sent)
        assert received(client) == b""
        assert kept.given == [sent]
        assert len(kept.connections) == 0


@pytest.mark.parametrize("sent", [b"P", b"POST /plain HTTP/1.1\r\n", HEAD % 5 + b"hel"])
@pytest.mark.parametrize("half_closed", [False, True])
def test_what_is_not_whole_in_time_goes_to_gunicorn(impatient, sent, half_closed):
    with impatient.connect() as client:
        client.sendall(sent)
        if half_closed:
            client.shutdown(socket.SHUT_WR)
        assert received(client) == b""
        assert impatient.given == [sent]


def test_of_too_many_bodies_that_wait_for_their_rest_the_oldest_goes_to_gunicorn(kept, monkeypatch):
    monkeypatch.setattr(kept_alive, "MAX_INCOMPLETE", 2)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(kept.connect()) for _ in range(3)]
        for client in clients:
            client.sendall(request(b"hello")[:-1])
            settle()
        assert received(clients[0]) == b""
        assert kept.given == [request(b"hello")[:-1]]
        for client in clients[1:]:
            client.sendall(b"o")
            assert received(client) == b"<hello>"


def test_what_is_not_taken_up_in_time_goes_to_gunicorn(impatient):
    impatient.handler.may.clear()
    with impatient.connect() as first, impatient.connect() as second:
        first.sendall(request(b"first"))
        settle()
        second.sendall(request(b"second"))
        assert received(second) == b""
        assert impatient.given == [request(b"second")]
        impatient.handler.may.set()
        assert received(first) == b"<first>"
    assert impatient.handler.rounds == [[b"first"]]


def test_a_half_closed_client_gets_its_answer(kept):
    with kept.connect() as client:
        client.sendall(request(b"a"))
        client.shutdown(socket.SHUT_WR)
        assert received(client) == b"<a>"
        assert received(client) == b""
    assert not kept.given


def test_a_client_that_is_gone_is_forgotten(kept):
    kept.handler.may.clear()
    for sent in (b"", request(b"a"), request(b"a") + request(b"b")):
        with kept.connect() as client:
            client.sendall(sent)
            settle(0.005)
    kept.handler.may.set()
    settle(0.1)
    assert len(kept.connections) == 0
    assert not kept.kept.is_busy


def test_an_answer_larger_than_the_buffer_arrives_whole(kept):
    body = b"x" * 16_000
    with kept.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sending = gevent.spawn(client.sendall, b"".join(request(body) for _ in range(80)))
        settle()
        answer = b""
        while len(answer) < 80 * 16_002:
            answer += received(client)
        assert answer == b"<%b>" % body * 80
        sending.join()


def test_a_client_that_reads_nothing_is_disconnected(kept, monkeypatch):
    monkeypatch.setattr(client_socket, "STALLED_SECONDS", 0.05)
    with kept.connect() as client:
        client.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while client.send(request(b"x" * 16_000)):
                settle(0.001)
        kept.kept.close_stalled()
        assert len(kept.connections) == 0
        assert not kept.kept.is_busy


def test_an_answer_may_close_the_connection(kept):
    kept.handler.closes = True
    with kept.connect() as client:
        client.sendall(request(b"a") + request(b"b"))
        assert received(client) == b"<a>"
        assert received(client) == b""
    assert kept.handler.rounds == [[b"a"]]


def test_an_error_of_the_handler_closes_what_it_left_unanswered(kept, caplog):
    kept.handler.error = ValueError("odd")
    with kept.connect() as client:
        client.sendall(request(b"a"))
        assert received(client) == b""
        assert "odd" in caplog.text
    assert not kept.given, "it may have been carried out"
    kept.handler.error = None
    with kept.connect() as client:
        client.sendall(request(b"b"))
        assert received(client) == b"<b>"


def test_an_error_beside_a_request_that_was_given_up_leaves_that_to_gunicorn(kept):
    handle = kept.handler.handle

    def handle_and_fail(requests):
        handle(requests)
        raise ValueError("odd")

    kept.handler.handle = handle_and_fail
    kept.handler.may.clear()
    with kept.connect() as first, kept.connect() as second, kept.connect() as third:
        for client, body in ((first, b"a"), (second, b"give"), (third, b"b")):
            client.sendall(request(body))
        settle()
        kept.handler.may.set()
        assert received(first) == b"<a>"
        assert received(third) == b"<b>"
        assert received(second) == b""
    assert kept.given == [request(b"give")]


def test_an_idle_connection_holds_nothing_of_its_last_request(kept):
    seen = []
    handle = kept.handler.handle
    kept.handler.handle = lambda requests: (seen.extend(requests), handle(requests))
    with kept.connect() as client:
        client.sendall(request(b"x" * 10_000))
        assert received(client) == b"<%b>" % (b"x" * 10_000)
        [connection] = seen
        assert (connection.head, connection.body, connection.buffer) == (None, b"", b"")


def test_after_a_stop_all_goes_to_gunicorn_but_what_is_handled_already(kept):
    kept.handler.may.clear()
    with kept.connect() as handled, kept.connect() as late:
        handled.sendall(request(b"handled"))
        settle()
        kept.kept.stop()
        late.sendall(request(b"late"))
        assert received(late) == b""
        assert kept.kept.is_busy
        kept.handler.may.set()
        assert received(handled) == b"<handled>"
        assert not kept.kept.is_busy
    assert kept.given == [request(b"late")]


def test_connections_that_wait_are_counted_and_closed_when_they_are_idle_for_too_long(kept):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(kept.connect()) for _ in range(8)]
        for client in clients:
            client.sendall(request(b"a"))
            assert received(client) == b"<a>"
        assert len(kept.connections) == 8
        kept.connections.close_idle(-1.0)
        assert all(received(client) == b"" for client in clients)
    assert len(kept.connections) == 0
