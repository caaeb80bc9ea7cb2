"""Producers that stream lines over long requests, and find out which of them are stored."""

import asyncio
import json
from typing import Any

from tests.chaos.producers import ANSWER_SECONDS, Entry, HttpProducer
from tests.chaos.wire import BROKEN, connect, read_body, read_head

MAX_REQUEST = 400  # events
HALF_A_LINE = b'40\r\n{"event_category": "chaos", "event_'
LINES = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class Streamer(HttpProducer):
    """Streams events to a run that only it appends to, so that event 0 has sequence 1.

    Every request states its start with `expected_sequence`. So the run's last sequence shows
    what is stored, and an earlier request that is still in progress (lines in the gateway, an
    append that Redis has not answered) stores nothing once a later request has begun. When no
    answer shows what is stored, it asks for the run's state, or goes on from what it knows.

    What a state shows was not acknowledged, and a failover may lose it. So the last event is
    posted with a key until that is acknowledged, and with it all that precede it.

    Attributes:
        missing: how many events the run lacked, each time when it lacked some that had been
            acknowledged (True), or that a state had shown.
    """

    kind = "streams"
    usual_answers = frozenset({200, 201, 404, 409, 503})

    def __init__(self, number: int, run: str, seed: int, port: int):
        super().__init__(number, [run], seed, port)
        self.missing: list[tuple[int, bool]] = []
        self._run = run
        self._stored = 0  # as far as it knows
        self._acknowledged = 0
        self._may_be_in_progress = False  # lines of an earlier request

    async def _produce(self, count: int) -> None:
        while not await self._is_done(count):
            size = self._random.randint(1, MAX_REQUEST)
            numbers = range(self._stored, min(count - 1, self._stored + size))
            try:
                status, answer = await self._stream(numbers)
            except BROKEN:
                await self._ask()
            else:
                await self._take(numbers, status, answer)
            if self._stored < numbers.stop:
                await self._pause()

    async def _is_done(self, count: int) -> bool:
        """Return whether all events are stored. The last one is posted when it is due."""
        if self._stored < count - 1:
            return False
        if count == 0:
            return True
        await asyncio.sleep(self._due_in(count - 1))
        body = json.dumps(self._event(count - 1)).encode()
        keyed = (
            'Idempotency-Key: "last"\r\nContent-Type: application/json\r\n'
            f"Content-Length: {len(body)}\r\n"
        )
        head = self._head("POST", f"/events?expected_sequence={count}", keyed)
        status, answer = await self._request(head + body, 200, 201, 409)
        if status == 409:
            self._find(answer["last_sequence"])
            return False
        self._acknowledge(count, answer["id"], answer["sequence"])
        return True

    def cut(self) -> None:
        """Abort the connection in the middle of a line."""
        if self._connection is not None:
            self._connection[1].write(HALF_A_LINE)
        self._hang_up()

    async def _stream(self, numbers: range) -> tuple[int, dict[str, Any]]:
        """Send each event when it is due, until an answer comes. Returns the answer."""
        self._hang_up()
        reader, writer = self._connection = await connect(self._port)
        path = f"/events?expected_sequence={numbers.start + 1}"
        writer.write(self._head("POST", path, LINES))
        answer = asyncio.create_task(_read_answer(reader))
        try:
            for number in numbers:
                await asyncio.wait([answer], timeout=self._due_in(number))
                if answer.done():
                    break
                line = json.dumps(self._event(number)).encode() + b"\n"
                writer.write(b"%x\r\n%b\r\n" % (len(line), line))
                async with asyncio.timeout(ANSWER_SECONDS):
                    await writer.drain()
            else:
                writer.write(LAST_CHUNK)
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
            self._hang_up()

    async def _take(self, numbers: range, status: int, answer: dict[str, Any]) -> None:
        """Record what an answer shows of the events that were sent."""
        self.answers[status] += 1
        if status == 200 and answer["stored"] != len(numbers):
            self.wrong.append(f"{len(numbers)} events sent from {numbers.start} on, but {answer}")
        if status == 409:
            end = numbers.start + answer["stored"]
            if answer["stored"]:  # where a run loses events meanwhile, it has less than that
                self._acknowledge(end, answer["last_id"], end)
            is_ahead = answer["last_sequence"] >= end
            if is_ahead and not self._may_be_in_progress and not self.missing:
                self.wrong.append(f"{numbers.start} events known to be stored, but {answer}")
            self._find(answer["last_sequence"])
            return
        if answer["stored"]:
            self._may_be_in_progress = False
            end = numbers.start + answer["stored"]
            self._acknowledge(end, answer["last_id"], answer["last_sequence"])
        if "unknown" in answer:
            await self._ask()

    async def _ask(self) -> None:
        """Ask for the run's state, or, every second time, leave it to the next request."""
        self._may_be_in_progress = True
        if self._random.random() < 0.5:
            return
        status, answer = await self._request(self._head("GET", ""), 200, 404)
        self._find(answer["last_sequence"] if status == 200 else 0)

    def _find(self, last_sequence: int) -> None:
        """Go on behind what a run has, which may have lost some."""
        if last_sequence < self._stored:
            is_acknowledged = last_sequence < self._acknowledged
            self.missing.append((self._stored - last_sequence, is_acknowledged))
        self._stored = last_sequence
        self._acknowledged = min(self._acknowledged, last_sequence)

    def _acknowledge(self, end: int, last_id: str, last_sequence: int) -> None:
        for number in range(self._acknowledged, end - 1):
            self._note(None, number + 1, number)
        if self._acknowledged < end:
            self._note(last_id, last_sequence, end - 1)
        self._acknowledged = max(self._acknowledged, end)
        self._stored = max(self._stored, end)

    def _note(self, event_id: str | None, sequence: int, number: int) -> None:
        entry = Entry(event_id, sequence, self.number, number)
        self.acknowledged[self._run].append(entry)

    def _head(self, method: str, path: str, body: str = "") -> bytes:
        return (
            f"{method} /runs/{self._run}{path} HTTP/1.1\r\nHost: localhost\r\n{body}\r\n"
        ).encode()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    status, head = await read_head(reader)
    return status, json.loads(await read_body(reader, head))
