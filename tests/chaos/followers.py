"""Followers: SSE clients that reconnect with their cursor, and record every event."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.chaos.producers import Entry
from tests.chaos.wire import BROKEN, connect, read_head, read_pieces

# How a follower behaves. Steady: reads at once. Slow: reads too slowly for a busy run. Fickle:
# disconnects now and then. Newcomer: disconnects, and comes back without a cursor.
BEHAVIOURS = ("steady", "slow", "fickle", "steady", "steady", "newcomer", *("slow", "fickle") * 2)
LEAVING = ("fickle", "newcomer")

# Heartbeats come every 2 s, even while Redis is away.
SILENCE_SECONDS = 30.0
SLOW_BYTES_A_SECOND = 20_000
STAY_SECONDS = 6.0


class Follower:
    """Follows one run until it is cancelled.

    Attributes:
        records: a list for each start without cursor, and after each reset.
        told: the records that ended with a reset, by their places.
        reconnects: whether its client reconnects by itself, unseen by the test.
    """

    reconnects = False

    def __init__(self, number: int, port: int, run: str, seed: int):
        self.run = run
        self.behaviour = BEHAVIOURS[number % len(BEHAVIOURS)]
        self.name = f"follower {number} ({self.behaviour}) of {run}"
        self.records: list[list[Entry]] = [[]]
        self.told: set[int] = set()
        self.controls: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.cursor: str | None = None
        self.quiet = False  # from then on it reads at once and does not disconnect
        self._port = port
        self._random = random.Random(f"{seed} follower {number}")
        self._stalled_until = 0.0
        self._reset_since_cursor: list[Follower] = []  # it, or parts of it
        self._writer: asyncio.StreamWriter | None = None

    async def follow(self) -> None:
        while True:
            try:
                await self._follow_once()
            except TimeoutError:
                self.wrong.append(f"{self.name}: silence after {self.cursor}")
            except BROKEN:
                pass  # this suite breaks connections on purpose
            except (ValueError, KeyError, TypeError) as error:
                self.wrong.append(f"{self.name}: broken bytes after {self.cursor}: {error!r}")
            finally:
                self.cut()
            await asyncio.sleep(self._random.uniform(0.05, 0.5))

    def cut(self) -> None:
        """Abort the connection."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    def stall(self, seconds: float) -> None:
        """Read nothing for a while."""
        self._stalled_until = time.monotonic() + seconds

    async def _follow_once(self) -> None:
        if self.behaviour == "newcomer" and self.cursor and not self.quiet:
            self._begin_anew()
        for part in self._reset_since_cursor:
            part.take_reset_back()  # the cursor is one before the reset, which must come again
        self._reset_since_cursor.clear()
        reader, self._writer = await connect(self._port, narrow=self.behaviour == "slow")
        cursor = f"Last-Event-ID: {self.cursor}\r\n" if self.cursor else ""
        self._writer.write(
            f"GET {self.path()} HTTP/1.1\r\nHost: localhost\r\n"
            f"Accept: text/event-stream\r\n{cursor}\r\n".encode()
        )
        async with asyncio.timeout(SILENCE_SECONDS):
            status, head = await read_head(reader)
        self.answers[status] += 1
        if status != 200:
            return
        leaving = time.monotonic() + self._random.expovariate(1 / STAY_SECONDS)
        unfinished = b""
        async for chunk in read_pieces(reader, head, SILENCE_SECONDS):
            *blocks, unfinished = (unfinished + chunk).split(b"\n\n")
            for block in blocks:
                self._take(block.decode())
            await self._read_slowly(len(chunk))
            if self.behaviour in LEAVING and time.monotonic() > leaving and not self.quiet:
                return

    def path(self) -> str:
        return f"/runs/{self.run}/events/stream"

    def _begin_anew(self) -> None:
        self.records.append([])
        self._reset_since_cursor.clear()
        self.cursor = None

    def _take(self, block: str) -> None:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        if "id" in fields:
            self._go_to(fields["id"])
        name = fields.get("event", "")
        if name.startswith("gateway."):
            self._take_control(self, name)
        elif "data" in fields:
            event = json.loads(fields["data"])
            if event["id"] != fields["id"]:
                raise ValueError(fields["id"])
            self.record(event)

    def _go_to(self, cursor: str) -> None:
        self.cursor = cursor
        self._reset_since_cursor.clear()

    def _take_control(self, part: "Follower", name: str) -> None:
        part.record_control(name)
        if name == "gateway.reset":
            self._reset_since_cursor.append(part)

    def take_reset_back(self) -> None:
        """Forget the last reset, after which nothing came."""
        self.records.pop()
        self.told.discard(len(self.records) - 1)

    def record_control(self, name: str) -> None:
        """Record a control event. After a reset the log comes from its beginning."""
        self.controls[name] += 1
        if name == "gateway.reset":
            self.told.add(len(self.records) - 1)
            self.records.append([])

    def record(self, event: dict[str, Any]) -> None:
        """Record an event of the run."""
        data = event["data"]
        entry = Entry(event["id"], event["sequence"], data["producer"], data["number"])
        self.records[-1].append(entry)

    async def _read_slowly(self, size: int) -> None:
        if self.behaviour == "slow" and not self.quiet:
            await asyncio.sleep(min(2.0, size / SLOW_BYTES_A_SECOND))
        while time.monotonic() < self._stalled_until and not self.quiet:
            await asyncio.sleep(0.1)


class MergedFollower(Follower):
    """Follows several runs on one stream. `parts` has what it was sent of each."""

    def __init__(self, number: int, port: int, runs: Sequence[str], seed: int):
        super().__init__(number, port, f"{len(runs)} runs", seed)
        self.parts = {run: Follower(number, port, run, seed) for run in runs}
        for part in self.parts.values():
            part.name += f", with {len(runs) - 1} others"

    def path(self) -> str:
        return "/events/stream?" + "&".join(f"run={run}" for run in self.parts)

    def _begin_anew(self) -> None:
        self.cursor = None
        self._reset_since_cursor.clear()
        for part in self.parts.values():
            part.records.append([])

    def _take(self, block: str) -> None:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        if "data" not in fields:
            return
        document = json.loads(fields["data"])
        for event in document if isinstance(document, list) else [document]:
            if event["event"]["category"] != "gateway":
                self.parts[event["run_id"]].record(event)
            elif event["run_id"] is not None:
                name = f"gateway.{event['event']['action']}"
                self._take_control(self.parts[event["run_id"]], name)
        if "id" in fields:  # the whole block has come
            self._go_to(fields["id"])
