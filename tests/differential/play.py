"""Plays conversations on two gateways, and compares what they answer and what they store."""

import contextlib
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis

from app.streaming.log.redis_keys import redis_keys
from tests.differential.conversations import MAX_BODY_BYTES, MAX_EVENT_BYTES, conversation
from tests.servers import GatewayServer, RedisServer

# What differs between two gateways that do the same: the clock, the ids that they give requests,
# and what gunicorn's parser finds first in a malformed head, which depends on the pieces in which
# it comes.
DIFFERING = re.compile(
    rb"(?m)^Date: [^\r]*|[0-9a-f]{12}-\d+|\d{13}-\d+|\d{4}-\d\d-\d\dT[\d:.]+Z"
    rb"|Content-Length: \d+\r\n\r\n\{[^}]*a header (is malformed|is folded over several lines)"
)


@dataclass
class Outcome:
    """What was played, and what differed."""

    conversations: int = 0
    answers: int = 0
    differences: list[str] = field(default_factory=list)


# The order of the methods in `Allow` is that of a set.
SETTINGS = {
    "LOG_LEVEL": "warning",
    "PYTHONHASHSEED": "0",
    "MAX_EVENT_BYTES": str(MAX_EVENT_BYTES),
    "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
}

GATEWAYS = {"plain": "wsgi:app", "ordinary": "tests.differential.ordinary_wsgi:app"}


@contextlib.contextmanager
def gateways(directory: Path) -> Iterator[list[tuple[int, redis.Redis]]]:
    """Start two gateways with a Redis each, and return the port and the client of each."""
    with contextlib.ExitStack() as stack:
        started = []
        for name, application in GATEWAYS.items():
            (directory / name).mkdir()
            server = stack.enter_context(RedisServer(directory / name))
            log = directory / name / "log"
            gateway = stack.enter_context(
                GatewayServer(server.url, log, application=application, **SETTINGS)
            )
            client = stack.enter_context(redis.Redis.from_url(server.url))
            started.append((gateway.port, client))
        yield started


def play(started: list[tuple[int, redis.Redis]], seed: str, count: int) -> Outcome:
    """Play so many conversations on both gateways."""
    ports, clients = zip(*started, strict=True)
    outcome, dice = Outcome(), random.Random(seed)
    for number in range(count):
        runs = [f"{seed}-{number}-{name}" for name in ("a", "b")]
        pieces, pauses = conversation(dice, runs)
        answers = [b"", b""]

        def talk(index: int, pieces=pieces, pauses=pauses, answers=answers) -> None:
            answers[index] = _talk(ports[index], pieces, pauses)

        other = threading.Thread(target=talk, args=(1,))
        other.start()
        talk(0)
        other.join()
        outcome.conversations += 1
        outcome.answers += answers[0].count(b"HTTP/1.")
        first, second = (DIFFERING.sub(b"*", each) for each in answers)
        if first != second:
            outcome.differences.append(f"{number}: sent {pieces}\n\n{first!r}\n\n{second!r}")
        for run_id in runs:
            stored = [_stored(client, run_id) for client in clients]
            if stored[0] != stored[1]:
                outcome.differences.append(f"{number}: sent {pieces}\n\nstored {stored}")
    return outcome


def _talk(port: int, pieces: list[bytes], pauses: list[float]) -> bytes:
    """Send the pieces, end the sending half, and return all that is answered."""
    answer = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece, pause in zip(pieces, pauses, strict=True):
                connection.sendall(piece)
                time.sleep(pause)
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # the gateway has closed the connection
            pass
        try:
            while piece := connection.recv(1 << 20):
                answer += piece
        except ConnectionResetError:
            pass
    return bytes(answer)


def _stored(client: redis.Redis, run_id: str) -> list[object]:
    """Return a run's entries without what the clock decides, and its idempotency keys."""
    log, keys, _ = redis_keys(run_id)
    entries = [
        [(name, value) for name, value in fields.items() if name not in (b"timestamp", b"epoch")]
        for _, fields in client.xrange(log)
    ]
    return [entries, sorted(client.hkeys(keys)), client.ttl(log) > 0]
