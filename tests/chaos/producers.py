"""Producers: each appends numbered events at a steady pace, and keeps the acknowledged ones."""

import asyncio
import json
import random
import time
from collections import Counter
from typing import Any, NamedTuple

from tests.chaos.wire import BROKEN, connect, read_body, read_head

ANSWER_SECONDS = 8.0
MAX_PADDING = 1000
MAX_BATCH = 40


class Entry(NamedTuple):
    """An event as it was acknowledged, logged or delivered.

    An answer to many events has the id and the sequence of the last one only.
    """

    id: str | None
    sequence: int | None
    producer: int
    number: int


class Producer:
    """Appends events 0, 1, 2 … to random runs, to the first runs more often.

    `made` has when each event was made, in milliseconds.
    """

    kind = ""
    usual_answers = frozenset({200, 201, 503})

    def __init__(self, number: int, runs: list[str], seed: int):
        self.number = number
        self.acknowledged: dict[str, list[Entry]] = {run: [] for run in runs}
        self.made: dict[int, int] = {}
        self.answers: Counter[int] = Counter()
        self.replayed = 0
        self.repeats = 0
        self.wrong: list[str] = []
        self._random = random.Random(f"{seed} producer {number}")

    async def produce(self, count: int, seconds: float) -> None:
        self._began = asyncio.get_running_loop().time()
        self._interval = seconds / max(1, count)
        try:
            await self._produce(count)
        finally:
            self._hang_up()

    async def _produce(self, count: int) -> None:
        raise NotImplementedError

    def cut(self) -> None:
        """Abort the connection, even in the middle of a request."""
        self._hang_up()

    def _hang_up(self) -> None:
        """Close the connection, if there is one."""

    def _due_in(self, number: int) -> float:
        """Return the seconds until an event is due."""
        due = self._began + number * self._interval
        return max(0.0, due - asyncio.get_running_loop().time())

    def _choose_run(self) -> str:
        runs = list(self.acknowledged)
        [run] = self._random.choices(runs, [1 / (place + 1) for place in range(len(runs))])
        return run

    def _data(self, number: int) -> dict[str, Any]:
        """Return the data of an event, the same at every attempt."""
        self.made.setdefault(number, int(time.time() * 1000))
        padding = "x" * (number * 7919 % MAX_PADDING)
        return {"producer": self.number, "number": number, "padding": padding}

    def _event(self, number: int) -> dict[str, Any]:
        data = self._data(number)
        return {"event_category": "chaos", "event_action": "event", "data": data}


class HttpProducer(Producer):
    """A producer that uses one HTTP connection at a time."""

    def __init__(self, number: int, runs: list[str], seed: int, port: int):
        super().__init__(number, runs, seed)
        self._port = port
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def _request(self, request: bytes, *accepted: int) -> tuple[int, dict[str, Any]]:
        """Repeat a request until its status is an accepted one."""
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    status, body = await self._exchange(request)
            except BROKEN:
                self._hang_up()
            else:
                self.answers[status] += 1
                if status in accepted:
                    return status, json.loads(body)
            await self._pause()

    async def _pause(self) -> None:
        """Wait before the next attempt."""
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


class Poster(HttpProducer):
    """Appends one event a request, and repeats each request with its key until it succeeds."""

    kind = "posts"
    max_events = 1

    async def _produce(self, count: int) -> None:
        first = 0
        while first < count:
            end = min(count, first + self._random.randint(1, self.max_events))
            await asyncio.sleep(self._due_in(end - 1))
            await self._append(self._choose_run(), range(first, end))
            first = end

    async def _append(self, run: str, numbers: range) -> None:
        status, answer = await self._request(self._append_request(run, numbers), 200, 201)
        self.replayed += status == 200
        for number, event in zip(numbers, answer.get("events", [answer]), strict=True):
            entry = Entry(event["id"], event["sequence"], self.number, number)
            self.acknowledged[run].append(entry)

    def _append_request(self, run: str, numbers: range) -> bytes:
        events = [self._event(number) for number in numbers]
        body = json.dumps(events if self.max_events > 1 else events[0]).encode()
        head = (
            f"POST /runs/{run}/events HTTP/1.1\r\nHost: localhost\r\n"
            f'Idempotency-Key: "{run}-{self.number}-{numbers.start}"\r\n'
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Batcher(Poster):
    """Appends arrays of events, each of which is stored as a whole or not at all."""

    kind = "batches"
    max_events = MAX_BATCH
