"""Requests that change a run over HTTP, repeated until they are answered."""

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

from tests.chaos.wire import BROKEN, connect, read_body, read_head
from tests.schedules.followers import Way

# So long that no request is carried out after a repeat of it, even if a gateway was stopped.
ANSWER_SECONDS = 60.0
PAUSE_SECONDS = 0.05


class HttpWriter:
    """Sends requests for one run, over one connection at a time."""

    def __init__(self, run: str, ways: Sequence[Way], dice: random.Random):
        self._run = run
        self._ways = ways
        self._dice = dice
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, body: Any, headers: str, accepted: set[int]
    ) -> dict[str, Any]:
        """Repeat a request until its status is an accepted one. Returns the answer."""
        payload = b"" if body is None else json.dumps(body).encode()
        request = (
            f"{method} /runs/{self._run}/events HTTP/1.1\r\nHost: localhost\r\n{headers}"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        ).encode() + payload
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    status, answer = await self._exchange(request)
            except BROKEN:
                self.hang_up()
            else:
                if status in accepted:
                    return json.loads(answer) if answer else {}
                if status not in (429, 503):
                    raise AssertionError(f"{method} for {self._run}: {status} {answer!r}")
            await asyncio.sleep(PAUSE_SECONDS)

    def hang_up(self) -> None:
        """Abort the connection."""
        if self._connection is not None:
            self._connection[1].transport.abort()
            self._connection = None

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = await connect(self._dice.choice(self._ways).port)
        reader, writer = self._connection
        writer.write(request)
        status, head = await read_head(reader)
        return status, await read_body(reader, head)
