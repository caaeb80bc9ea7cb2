"""The client's socket: it writes without blocking, and never to another client."""

import contextlib
import fcntl
import socket
import struct
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.socket import socket as GeventSocket

from app.streaming.follow import client_socket as client_socket_module
from app.streaming.follow.client_socket import Backlog, ClientGone, ClientSocket, ClientStalled
from app.streaming.wire.frame_batch import http_chunk

# More than both buffers of a connection hold.
LARGE = bytes(range(256)) * 4096


class Connection:
    """Both ends of a TCP connection: a ClientSocket and its client."""

    def __init__(self, chunked: bool = False):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.socket()
            # Small buffers are soon full, and must be asked for before the connection is made.
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.client.connect(listener.getsockname())
            accepted, _ = listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.client = GeventSocket(fileno=self.client.detach())
        self.fileno = accepted.fileno()
        self.client_socket = ClientSocket(GeventSocket(fileno=accepted.detach()), chunked)

    def fill(self) -> bytes:
        """Write until the buffer is full, and return what was written."""
        written = b""
        while True:
            try:
                written += LARGE[: self.client_socket.send(LARGE)]
            except BlockingIOError:
                return written

    def read_all(self) -> bytes:
        received = b""
        while piece := self.client.recv(65536):
            received += piece
        return received

    def reset(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    def hang_up(self) -> None:
        self.client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.client_socket.close()
        self.client.close()


@contextlib.contextmanager
def socketpair_at(fileno: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Open two sockets, of which the first has a file descriptor that was closed before."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if theirs.fileno() == fileno:
            yield theirs, ours
        elif ours.fileno() == fileno:
            yield ours, theirs
        else:  # a lower one was free too
            with socket.socket(fileno=fcntl.fcntl(ours, fcntl.F_DUPFD, fileno)) as reused:
                assert reused.fileno() == fileno
                yield reused, theirs


EITHER_DISCONNECT = pytest.mark.parametrize("disconnect", [Connection.reset, Connection.hang_up])


@pytest.fixture
def connect() -> Iterator[Callable[..., Connection]]:
    connections: list[Connection] = []

    def make(**options) -> Connection:
        connections.append(Connection(**options))
        return connections[-1]

    yield make
    for connection in connections:
        connection.close()


@pytest.fixture
def connection(connect) -> Connection:
    return connect()


@pytest.fixture(autouse=True)
def limit_in_seconds() -> Iterator[None]:
    """Fail a test that waits for too long."""
    with gevent.Timeout(20):
        yield


def wait_in_the_hub(predicate: Callable[[], object]) -> None:
    while not predicate():
        gevent.sleep(0.001)


def test_send_raises_instead_of_waiting(connection):
    assert 0 < len(connection.fill()) < len(LARGE)
    with pytest.raises(BlockingIOError):
        connection.client_socket.send(b"x")


def test_bytes_that_a_full_buffer_does_not_take_are_written_as_the_client_reads(connection):
    written = connection.fill()
    reading = gevent.spawn(connection.read_all)
    connection.client_socket.send_all(memoryview(LARGE)[5:])
    connection.client_socket.finish()
    assert reading.get() == written + LARGE[5:]


def test_a_write_that_waits_does_not_hold_up_others(connect):
    slow, fast = connect(), connect()
    waiting = gevent.spawn(slow.client_socket.send_all, LARGE)
    wait_in_the_hub(lambda: slow.client_socket._writable)
    fast.client_socket.send_all(b"at once")
    assert fast.client.recv(100) == b"at once"
    assert not waiting.dead
    gevent.spawn(slow.read_all)
    waiting.get()


@pytest.mark.parametrize(
    ("chunked", "expected"),
    [(True, b"3\r\nabc\r\n1a\r\n" + b"z" * 26 + b"\r\n0\r\n\r\n"), (False, b"abc" + b"z" * 26)],
)
def test_a_body_is_sent_in_chunks_or_as_it_is(connect, chunked, expected):
    connection = connect(chunked=chunked)
    for piece in (b"abc", b"z" * 26):
        connection.client_socket.send_all(http_chunk(piece) if chunked else piece)
    connection.client_socket.finish()
    assert connection.read_all() == expected


def test_the_last_chunk_is_written_after_a_full_buffer_too(connect):
    """Without it the client reports an error at the end."""
    connection = connect(chunked=True)
    written = connection.fill()
    reading = gevent.spawn_later(0.01, connection.read_all)
    connection.client_socket.finish()
    assert reading.get() == written + b"0\r\n\r\n"


@EITHER_DISCONNECT
def test_a_disconnect_while_nothing_is_written_is_noticed_once(connection, disconnect):
    calls: list[bool] = []
    connection.client_socket.watch(lambda: calls.append(True))
    gevent.idle()
    assert calls == []
    disconnect(connection)
    wait_in_the_hub(lambda: calls)
    gevent.idle()
    assert calls == [True]


@EITHER_DISCONNECT
def test_a_disconnect_makes_a_waiting_write_fail(connection, disconnect):
    calls: list[bool] = []
    connection.client_socket.watch(lambda: calls.append(True))
    writing = gevent.spawn(connection.client_socket.send_all, LARGE)
    wait_in_the_hub(lambda: connection.client_socket._writable)
    disconnect(connection)
    with pytest.raises(ClientGone):
        writing.get()
    assert calls == [True]


def test_a_write_to_a_client_that_has_gone_raises(connection):
    connection.reset()
    with pytest.raises(ClientGone):
        connection.client_socket.send_all(LARGE)


def test_a_client_that_reads_nothing_for_too_long_has_stalled(connection, monkeypatch):
    monkeypatch.setattr(client_socket_module, "STALLED_SECONDS", 0.05)
    with pytest.raises(ClientStalled):
        connection.client_socket.send_all(LARGE)


def test_a_client_that_reads_slowly_has_not_stalled(connection, monkeypatch):
    """It takes many times the limit to read everything, but never reads nothing for as long."""
    monkeypatch.setattr(client_socket_module, "STALLED_SECONDS", 0.3)
    writing = gevent.spawn(connection.client_socket.send_all, LARGE[:1_000_000])
    received = 0
    while received < 1_000_000:
        gevent.sleep(0.01)
        received += len(connection.client.recv(10_000))
    writing.get()


def test_bytes_from_the_client_are_not_a_disconnect_and_end_the_watching(connection):
    calls: list[bool] = []
    connection.client_socket.watch(lambda: calls.append(True))
    connection.client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    wait_in_the_hub(lambda: connection.client_socket._readable is None)
    assert calls == []
    connection.client_socket.send_all(b"still here")
    assert connection.client.recv(100) == b"still here"


def test_close_may_be_repeated(connection):
    calls: list[bool] = []
    connection.client_socket.watch(lambda: calls.append(True))
    connection.client_socket.close()
    connection.client_socket.close()
    connection.client_socket.finish()
    gevent.idle()
    assert connection.read_all() == b""
    assert calls == []  # the owner closed it and needs no call


@pytest.mark.parametrize("end", [ClientSocket.close, ClientSocket.finish])
def test_a_closed_socket_never_writes_to_the_new_owner_of_its_descriptor(connect, end):
    first = connect()
    first.client_socket.watch(lambda: None)
    end(first.client_socket)
    with socketpair_at(first.fileno) as (reused, other):
        with pytest.raises(OSError, match="Bad file descriptor"):
            first.client_socket.send(b"not yours")
        with pytest.raises(ClientGone):
            first.client_socket.send_all(b"not yours")
        first.client_socket.finish()
        first.client_socket.close()
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)
        reused.sendall(b"still open")
        assert other.recv(100) == b"still open"


def test_a_write_that_waited_during_close_never_reaches_the_new_owner_of_the_descriptor(
    connect, monkeypatch
):
    monkeypatch.setattr(client_socket_module, "STALLED_SECONDS", 0.2)
    first = connect()
    first.client_socket.watch(lambda: None)
    waiting = gevent.spawn(first.client_socket.send_all, LARGE)
    wait_in_the_hub(lambda: first.client_socket._writable)
    first.client_socket.close()
    with socketpair_at(first.fileno) as ends:
        with pytest.raises((ClientGone, ClientStalled)):
            waiting.get()
        for end in ends:
            end.setblocking(False)
            with pytest.raises(BlockingIOError):
                end.recv(1)


def test_the_original_socket_can_no_longer_write_or_close(connect):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    server = GeventSocket(fileno=accepted.detach())
    client_socket = ClientSocket(server, chunked=False)
    with client:
        with pytest.raises(OSError, match="Bad file descriptor"):
            server.send(b"x")
        server.close()
        client_socket.send_all(b"mine")
        assert client.recv(100) == b"mine"
    client_socket.close()


def test_the_operating_system_holds_little_for_a_client_that_reads_nothing():
    """With the buffers that it has by default."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    client_socket = ClientSocket(GeventSocket(fileno=accepted.detach()), False)
    taken = 0
    with client, contextlib.suppress(BlockingIOError):
        while taken < 16 * 1024 * 1024:
            taken += client_socket.send(bytes(64 * 1024))
    client_socket.close()
    assert taken < 1024 * 1024


# The backlog


class WaitingClient:
    """A greenlet that holds a chunk until it is cut or released."""

    def __init__(self, backlog: Backlog, chunk: bytes):
        self.cut_by: Exception | None = None
        self._held = backlog.holding(memoryview(chunk)[1:], self)
        self._held.__enter__()

    def cut(self, error: Exception) -> None:
        self.cut_by = error

    def release(self) -> None:
        self._held.__exit__(None, None, None)


def chunks(count: int, size: int = 10) -> list[bytes]:
    return [bytes([number]) * size for number in range(count)]


def test_too_much_that_waits_disconnects_those_that_wait_longest():
    backlog = Backlog(max_bytes=30)
    clients = [WaitingClient(backlog, chunk) for chunk in chunks(5)]
    assert [isinstance(each.cut_by, ClientStalled) for each in clients] == [True] * 2 + [False] * 3


def test_clients_that_wait_for_the_same_bytes_hold_them_once_and_are_cut_together():
    backlog = Backlog(max_bytes=30)
    shared, *others = chunks(4)
    crowd = [WaitingClient(backlog, shared) for _ in range(100)]
    kept = [WaitingClient(backlog, chunk) for chunk in others[:2]]
    assert not any(each.cut_by for each in crowd)
    kept.append(WaitingClient(backlog, others[2]))
    assert all(each.cut_by for each in crowd)
    assert not any(each.cut_by for each in kept)


def test_what_a_client_has_taken_waits_no_more():
    backlog = Backlog(max_bytes=30)
    for chunk in chunks(100):
        WaitingClient(backlog, chunk).release()
    clients = [WaitingClient(backlog, chunk) for chunk in chunks(3)]
    assert not any(each.cut_by for each in clients)


def test_a_client_that_was_cut_frees_its_bytes_once():
    backlog = Backlog(max_bytes=30)
    first, *others = [WaitingClient(backlog, chunk) for chunk in chunks(4)]
    assert first.cut_by
    first.release()
    others.append(WaitingClient(backlog, b"12345678901"))
    assert [bool(each.cut_by) for each in others] == [True, True, False, False]


def test_one_chunk_may_be_larger_than_all_that_may_wait():
    assert not WaitingClient(Backlog(max_bytes=30), bytes(100)).cut_by


def test_a_client_that_is_cut_while_it_waits_has_stalled(connection):
    connection.fill()
    writing = gevent.spawn(connection.client_socket.send_all, LARGE)
    gevent.sleep(0.01)
    connection.client_socket.cut(ClientStalled())
    with pytest.raises(ClientStalled):
        writing.get(timeout=5)
