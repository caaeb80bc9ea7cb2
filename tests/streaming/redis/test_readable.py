"""Waiting for sockets: each wait ends with what comes, or when it is over."""

import socket

from app.streaming.redis.readable import wait_readable
from tests.run_program import run_program


def test_greenlets_wait_each_as_long_as_its_socket_says():
    ended = run_program("wait_in_greenlets", gevent=True)
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert ended.stdout.splitlines() == [
        "again 3 timeout",
        "late 1 timeout",
        "short 1 timeout",
        "silent 100 timeout",
        "told 100 x",
        "without 1 x",
    ]


def test_without_gevent_it_does_not_wait():
    one, other = socket.socketpair()
    with one, other:
        one.settimeout(60)
        wait_readable(one)
