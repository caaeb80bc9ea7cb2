"""Bodies that get a moment to arrive though too many are arriving."""

import gevent
import pytest

from app.server.bodies.gunicorn_body import read_pieces
from app.server.bodies.late_bodies import LateBodies
from tests.server.gunicorn_connection import CHUNKED, GunicornConnection, with_length

BODY = b'{"data": 1}'
BEGUN = with_length(len(BODY)) + b"{"


def read_all(connection: GunicornConnection) -> bytes:
    with gevent.Timeout(10):
        return b"".join(read_pieces(connection.body))


def read_late(late_bodies: LateBodies, connection: GunicornConnection) -> bytes | None:
    return late_bodies.read(connection.body, connection.server, 1000, 60.0)


def test_a_body_that_arrives_soon_is_waited_for():
    with GunicornConnection(with_length(len(BODY)) + BODY[:2]) as connection:
        gevent.spawn_later(0.01, connection.client.sendall, BODY[2:])
        assert LateBodies(1).read(connection.body, connection.server, 1000, 10.0) == BODY


@pytest.mark.parametrize("begun", [b"", BODY[:-1]])
def test_a_body_that_does_not_arrive_soon_is_left_to_read_pieces(begun):
    with GunicornConnection(with_length(len(BODY)) + begun) as connection:
        assert LateBodies(1).read(connection.body, connection.server, 1000, 0.01) is None
        connection.client.sendall(BODY[len(begun) :])
        assert read_all(connection) == BODY


@pytest.mark.parametrize(
    "request_bytes",
    [CHUNKED + b"1\r\na\r\n", with_length(2000) + b"a" * 1999],
    ids=["chunked", "over the limit"],
)
def test_a_body_that_cannot_be_read_at_once_is_not_waited_for(request_bytes):
    with GunicornConnection(request_bytes) as connection, gevent.Timeout(5):
        assert LateBodies(1).read(connection.body, connection.server, 1000, 60.0) is None


def test_the_wait_for_a_body_ends_when_the_client_hangs_up():
    with GunicornConnection(with_length(len(BODY)) + b"{") as connection, gevent.Timeout(5):
        connection.client.shutdown(1)
        assert LateBodies(1).read(connection.body, connection.server, 1000, 60.0) is None


def test_the_body_that_has_waited_longest_gives_way_to_a_newcomer():
    late_bodies = LateBodies(2)
    with (
        gevent.Timeout(10),
        GunicornConnection(BEGUN) as first,
        GunicornConnection(BEGUN) as second,
        GunicornConnection(BEGUN) as third,
    ):
        connections = first, second, third
        reads = [gevent.spawn(read_late, late_bodies, each) for each in connections]
        assert reads[0].get() is None
        assert gevent.wait(reads[1:], timeout=0.01) == []
        for connection in connections:
            connection.client.sendall(BODY[1:])
        assert [read.get() for read in reads] == [None, BODY, BODY]
        assert read_all(first) == BODY, "its bytes are all there for those who read on"


def test_a_body_that_arrives_while_it_gives_way_is_returned():
    late_bodies = LateBodies(1)
    with (
        gevent.Timeout(10),
        GunicornConnection(BEGUN) as first,
        GunicornConnection(BEGUN) as second,
    ):
        oldest = gevent.spawn(read_late, late_bodies, first)
        gevent.sleep(0)
        first.client.sendall(BODY[1:])
        newest = gevent.spawn(read_late, late_bodies, second)
        second.client.sendall(BODY[1:])
        assert newest.get() == BODY
        oldest.get()
        assert oldest.value in (BODY, None)
        if oldest.value is None:
            assert read_all(first) == BODY
