"""The shared connection when its server closes it, dies, pauses, or is no longer the master."""

import gc
import select
import socket
import struct
import threading
import time

import fakeredis
import psutil
import pytest
import redis

from app.streaming.redis import connection, redis_url
from app.streaming.redis.availability import Availability
from app.streaming.redis.shared_connection import SharedConnection
from tests.servers import RedisServer, wait_until
from tests.streaming.redis.callers import (
    Caller,
    blocked_leader,
    share,
    share_to,
    start_waiting,
    stored,
)


def is_readable(shared: SharedConnection) -> bool:
    poll = select.poll()  # which takes descriptors of any number
    poll.register(shared._link._sock, select.POLLIN)
    return bool(poll.poll(0))


def connections_to(server: RedisServer) -> int:
    """Count the sockets of this process that lead to the port of a server."""
    links = psutil.Process().net_connections("tcp")
    return sum(bool(link.raddr) and link.raddr.port == server.port for link in links)


def test_a_connection_closed_while_idle_is_replaced_without_an_error(shared, redis_client):
    own_id = shared.call("CLIENT", "ID")
    for _ in range(3):
        redis_client.client_kill_filter(_id=own_id)
        wait_until(lambda: is_readable(shared), "the end has arrived")
        before, own_id = own_id, shared.call("CLIENT", "ID")
        assert own_id != before


def test_a_connection_reset_while_idle_is_replaced_without_an_error():
    def answer(listener: socket.socket) -> None:
        for _ in range(2):
            link, _ = listener.accept()
            link.recv(100)
            link.sendall(b"+PONG\r\n")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        shared = share(redis_url.make_client(f"redis://127.0.0.1:{port}"))
        assert shared.call("PING") == b"PONG"
        wait_until(lambda: is_readable(shared), "the reset has arrived")
        assert shared.call("PING") == b"PONG"


def test_a_call_after_a_restart_of_the_server_connects_again_without_an_error(breakable):
    shared = share_to(breakable)
    assert shared.call("PING") == b"PONG"
    breakable.stop()
    breakable.start()
    assert shared.call("PING") == b"PONG"


def test_an_unread_message_is_never_taken_for_a_reply(shared, redis_client, run_id):
    shared.call("SUBSCRIBE", run_id)
    redis_client.publish(run_id, "unasked")
    wait_until(lambda: is_readable(shared), "the message has arrived")
    assert shared.call("ECHO", "mine") == b"mine"


def test_a_default_timeout_of_the_process_does_not_make_calls_wait(shared):
    own_id = shared.call("CLIENT", "ID")
    socket.setdefaulttimeout(0.2)
    try:
        assert [shared.call("CLIENT", "ID") for _ in range(3)] == [own_id] * 3
    finally:
        socket.setdefaulttimeout(None)


def test_when_a_server_dies_each_caller_learns_whether_its_command_was_sent(breakable):
    shared = share_to(breakable)
    with breakable.client() as client:
        with blocked_leader(shared, client, "first"):
            sent = start_waiting(shared, ("BLPOP", "second", 0), ("INCR", "a"), ("INCR", "b"))
        wait_until(lambda: client.info("clients")["blocked_clients"], "the batch has been sent")
        late = start_waiting(shared, ("INCR", "c"), ("INCR", "d"))
    breakable.stop()
    assert stored(sent) == [None] * 3
    assert stored(late) == [False] * 2
    assert stored([Caller(shared, "PING") for _ in range(3)]) == [False] * 3
    breakable.start()
    assert shared.call("PING") == b"PONG"


def test_callers_of_a_paused_server_share_one_timeout(breakable):
    shared = share_to(breakable, socket_timeout=1)
    shared.call("PING")
    breakable.pause()
    began = time.monotonic()
    leader = Caller(shared, "INCR", "n")
    wait_until(lambda: shared._batch and not shared._waiting, "it leads")
    late = start_waiting(shared, *[("INCR", "n")] * 19)
    assert stored([leader, *late]) == [None] + [False] * 19
    assert time.monotonic() - began < 10
    breakable.resume()
    assert isinstance(shared.call("INCR", "n"), int)


def test_the_commands_of_one_caller_fail_together(breakable):
    shared = share_to(breakable)
    shared.call("PING")
    several = ("BLPOP", "a", 0), ("INCR", "n")
    with breakable.client() as client:
        caller = Caller(shared, *several)
        wait_until(lambda: client.info("clients")["blocked_clients"], "they have been sent")
    breakable.stop()
    assert stored([caller]) == [None]
    assert stored([Caller(shared, *several)]) == [False]


def test_a_command_that_was_not_sent_was_not_stored(breakable):
    shared = share_to(
        breakable, database=1, socket_timeout=0.2
    )  # so that connecting sends a SELECT
    breakable.pause()
    assert stored([Caller(shared, "INCR", "n")]) == [False]
    breakable.resume()
    assert shared.call("INCR", "n") == 1


def test_a_server_of_fakeredis_can_disconnect_and_return():
    server = fakeredis.FakeServer()
    shared = share(fakeredis.FakeRedis(server=server, protocol=2))
    shared.call("SET", "a", 1)
    server.connected = False
    assert stored([Caller(shared, "GET", "a")]) != [True]
    server.connected = True
    assert shared.call("GET", "a") == b"1"


@pytest.mark.parametrize("found_out", ["by a failure", "before a command is sent"])
def test_no_socket_stays_open(breakable, found_out):
    links, client = [], redis_url.make_client(breakable.url)

    def connect() -> connection.RedisConnection:
        links.append(connection.make_connection(client))
        return links[-1]

    shared = SharedConnection(connect, Availability(lambda: None))
    for _ in range(3):
        shared.call("PING")
        breakable.stop()
        if found_out == "by a failure":
            assert stored([Caller(shared, "PING")]) == [False]
        breakable.start()
    shared.call("PING")
    assert [link.is_connected for link in links].count(True) == 1
    assert connections_to(breakable) == 1
    links.clear()
    del shared
    gc.collect()
    assert connections_to(breakable) == 0


def test_a_connection_to_a_former_master_is_replaced(breakable):
    shared = share_to(breakable)
    before = shared.call("CLIENT", "ID")
    with breakable.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", 1)
    assert isinstance(shared.call("SET", "a", "b"), redis.exceptions.ReadOnlyError)
    assert shared.call("CLIENT", "ID") != before
