"""The process of the viewers: many streams on one epoll, which count what they receive.

The process must cost little beside the server: it counts events without parsing them, and reads
the times in the events of a few viewers only. Run it as
`python -m tests.bench.viewers PORT VIEWERS RUNS`. It prints `open` once every viewer has its
headers. For each line `count` on its input it prints the events and latencies since the last
one, as JSON. It ends with its input.
"""

import json
import re
import resource
import select
import socket
import sys
import time

SAMPLED = 50
OPENING_AT_ONCE = 50
STAMP = re.compile(rb'"t": ?([0-9]+)')
# Every server sends one `data:` line for each event.
EVENT = b"data: "


def open_viewers(port: int, viewers: int, runs: int) -> dict[int, socket.socket]:
    opened: dict[int, socket.socket] = {}
    for first in range(0, viewers, OPENING_AT_ONCE):
        group = []
        for number in range(first, min(first + OPENING_AT_ONCE, viewers)):
            viewer = socket.create_connection(("127.0.0.1", port))
            path = f"/runs/bench-{number % runs}/events/stream"
            viewer.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
                "User-Agent: bench\r\n\r\n".encode()
            )
            group.append(viewer)
        for viewer in group:
            assert viewer.recv(65536).startswith(b"HTTP/1.1 200")
            viewer.setblocking(False)
            opened[viewer.fileno()] = viewer
    return opened


def main(port: int, viewers: int, runs: int) -> None:
    _, max_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))
    opened = open_viewers(port, viewers, runs)
    sampled = set(list(opened)[:: max(1, viewers // SAMPLED)])
    # One buffer for all viewers: to make a new one each time costs more than to fill it.
    data = bytearray(262144)
    count = data.count
    receive = {descriptor: viewer.recv_into for descriptor, viewer in opened.items()}
    poll = select.epoll()
    for descriptor in opened:
        poll.register(descriptor, select.EPOLLIN)
    poll.register(0, select.EPOLLIN)
    events, latencies = 0, []
    print("open", flush=True)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == 0:
                if not sys.stdin.readline():
                    return
                print(json.dumps({"events": events, "latencies": latencies}), flush=True)
                events, latencies = 0, []
                continue
            try:
                size = receive[descriptor](data)
            except BlockingIOError:
                continue
            if not size:
                poll.unregister(descriptor)
                continue
            events += count(EVENT, 0, size)
            if descriptor in sampled:
                now = time.monotonic_ns()
                stamps = STAMP.findall(data, 0, size)
                latencies.extend(round((now - int(stamp)) / 1e6, 3) for stamp in stamps)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
