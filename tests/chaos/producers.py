"""A producer: appends over HTTP, and repeats each event under its key until it is there."""

import asyncio
import json
import random
from collections import Counter
from typing import NamedTuple

from tests.chaos.wire import BROKEN, connect, read_body, read_head

ANSWER_SECONDS = 8.0
LONGEST_PADDING = 1000


class Entry(NamedTuple):
    """An event as it was acknowledged, logged or delivered."""

    id: str
    sequence: int
    producer: int
    number: int


class Producer:
    """Appends events at a steady rate to runs at random, the first ones oftener."""

    def __init__(self, number: int, port: int, runs: list[str], seed: int):
        self.number = number
        self.acknowledged: dict[str, list[Entry]] = {run: [] for run in runs}
        self.answers: Counter[int] = Counter()
        self.repeats = 0
        self._port = port
        self._random = random.Random(f"{seed} producer {number}")
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def produce(self, count: int, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        began, runs = loop.time(), list(self.acknowledged)
        weights = [1 / (place + 1) for place in range(len(runs))]
        try:
            for number in range(count):
                await asyncio.sleep(began + number * seconds / count - loop.time())
                [run] = self._random.choices(runs, weights)
                await self._append(run, number)
        finally:
            self._hang_up()

    async def _append(self, run: str, number: int) -> None:
        request = self._request(run, number)
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    status, body = await self._exchange(request)
            except BROKEN:
                self._hang_up()
            else:
                self.answers[status] += 1
                if status in (200, 201):
                    event = json.loads(body)
                    entry = Entry(event["id"], event["sequence"], self.number, number)
                    self.acknowledged[run].append(entry)
                    return
            self.repeats += 1
            await asyncio.sleep(self._random.uniform(0.05, 0.3))

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = await connect(self._port)
        reader, writer = self._connection
        writer.write(request)
        status, head = await read_head(reader)
        return status, await read_body(reader, head)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection[1].transport.abort()
            self._connection = None

    def _request(self, run: str, number: int) -> bytes:
        padding = "x" * self._random.randrange(LONGEST_PADDING)
        data = {"producer": self.number, "number": number, "padding": padding}
        event = {"event_category": "chaos", "event_action": "event", "data": data}
        body = json.dumps(event).encode()
        head = (
            f"POST /runs/{run}/events HTTP/1.1\r\nHost: localhost\r\n"
            f'Idempotency-Key: "{run}-{self.number}-{number}"\r\n'
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body
