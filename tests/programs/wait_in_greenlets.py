"""Wait for sockets in greenlets, and print what became of each wait."""

import socket
import time

import gevent

from app.streaming.redis.readable import wait_readable

pairs = [socket.socketpair() for _ in range(200)]
outcomes: dict[str, list[object]] = {}


def wait(name: str, number: int, seconds: float | None, times: int = 1) -> None:
    connected, _ = pairs[number]
    connected.settimeout(seconds)
    for _ in range(times):
        began = time.monotonic()
        try:
            wait_readable(connected)
            outcome = connected.recv(1).decode()
        except TimeoutError:
            waited = time.monotonic() - began
            outcome = "timeout" if waited >= (seconds or 0) else f"too early: {waited}"
        outcomes.setdefault(name, []).append(outcome)


def send(number: int) -> None:
    pairs[number][1].sendall(b"x")


silent = [gevent.spawn(wait, "silent", number, 0.5 + number / 500) for number in range(100)]
told = [gevent.spawn(wait, "told", number, 5.0, 2) for number in range(100, 150)]
short = gevent.spawn(wait, "short", 150, 0.05)
again = gevent.spawn(wait, "again", 151, 0.5, 3)
without = gevent.spawn(wait, "without", 152, None)
killed = gevent.spawn(wait, "killed", 153, 0.5)
gevent.sleep(0.1)
killed.kill()
for each in range(100, 150):
    send(each)
gevent.sleep(0.1)
for each in (*range(100, 150), 152):
    send(each)
gevent.joinall([*silent, *told, short, again, without], raise_error=True)
waits = gevent.get_hub().tailrace_waits
assert waits.until == {}
gevent.sleep(0.3)
assert not waits.timer.active, "nobody waits, so nobody looks"
late = gevent.spawn(wait, "late", 154, 0.5)
late.join()
for name, found in sorted(outcomes.items()):
    print(name, len(found), *sorted(set(map(str, found))))
for pair in pairs:
    for each in pair:
        each.close()
