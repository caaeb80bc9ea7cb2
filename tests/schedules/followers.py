"""Followers: they ask for a stream of a run, are cut off at random, and resume."""

import asyncio
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from app.streaming.event_id import EventId
from app.streaming.merged.cursor import MergedCursor, RunList
from tests.chaos.wire import BROKEN, connect, read_head, read_pieces
from tests.schedules.record import (
    Broken,
    Closed,
    Control,
    Delivered,
    Item,
    Opened,
    Record,
    Refused,
    Selection,
)

STARTS = (*("earliest",) * 4, "latest", "latest", "tail=0", "tail=1", "tail=3", "tail=50")

# Longer than a heartbeat, which comes even while Redis is away.
SILENCE_SECONDS = 40.0


# How long a follower waits before it asks again.
REFUSED_SECONDS = 0.5


@dataclass(frozen=True)
class Way:
    """One of the ways to the gateways: its name in stories, and its port."""

    name: str
    port: int


class Follower:
    """Follows a run until it is cancelled. `quiet` ends the cuts that it makes itself."""

    def __init__(
        self,
        name: str,
        run: str,
        ways: Sequence[Way],
        seed: float,
        selection: Selection = Selection(),  # noqa: B008
        start: str | None = None,
        fickle: bool | None = None,
    ):
        """A fickle follower leaves now and then. `start` and `fickle` are random if None."""
        self.run = run
        self.record = Record(name, selection)
        self.quiet = False
        self._ways = ways
        self._dice = random.Random(seed)
        self._start = start or self._dice.choice(STARTS)
        self._fickle = self._dice.random() < 0.6 if fickle is None else fickle
        self._cursor: str | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def follow(self) -> None:
        while True:
            try:
                self._note(Closed(time.monotonic(), await self._follow_once()))
            except TimeoutError:
                self._note(Broken(time.monotonic(), "silence"))
            except BROKEN as error:
                self._note(Closed(time.monotonic(), type(error).__name__))
            except (ValueError, KeyError, TypeError) as error:
                self._note(Broken(time.monotonic(), repr(error)))
            finally:
                self.cut()
            await asyncio.sleep(self._dice.choice((0, 0.01, 0.1)))

    def cut(self) -> None:
        """Abort the connection."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    async def _follow_once(self) -> str:
        """Follow until the stream ends, and return how it ended."""
        way = self._dice.choice(self._ways)
        reader, self._writer = await connect(way.port)
        self._note(Opened(time.monotonic(), self._place(), way.name))
        self._writer.write(self._request())
        async with asyncio.timeout(SILENCE_SECONDS):
            status, head = await read_head(reader)
        if status != 200:
            self._note(Refused(time.monotonic(), status))
            await asyncio.sleep(REFUSED_SECONDS)
            return "refused"
        patience = self._patience()
        try:
            async with asyncio.timeout(patience.seconds) as leaving:
                return await self._read(reader, head, patience.items)
        except TimeoutError:
            if not leaving.expired():
                raise
            return "left"

    async def _read(self, reader: asyncio.StreamReader, head: bytes, items: int | None) -> str:
        unfinished = b""
        async for chunk in read_pieces(reader, head, SILENCE_SECONDS):
            *blocks, unfinished = (unfinished + chunk).split(b"\n\n")
            for block in blocks:
                for item in self._items(block.decode(), time.monotonic()):
                    self._note(item)
                    items = items and items - 1
                if items == 0 and not self.quiet:
                    return "left"
        return "the body ended"

    def _place(self) -> str:
        """Return where the next stream starts in the run."""
        return self._cursor or self._start

    def _items(self, block: str, at: float) -> Iterator[Item]:
        return parse(block, at)

    def _path(self) -> str:
        return f"/runs/{self.run}/events/stream?"

    def _request(self) -> bytes:
        query, header = f"category={c}" if (c := self.record.selection.category) else "", ""
        if self._cursor and self._dice.random() < 0.7:
            header = f"Last-Event-ID: {self._cursor}\r\n"
        elif self._cursor:
            query += f"&last_event_id={self._cursor}"
        elif self._start != "earliest":
            query += f"&{self._start}" if "=" in self._start else f"&last_event_id={self._start}"
        return (
            f"GET {self._path()}{query} HTTP/1.1\r\nHost: localhost\r\n"
            f"Accept: text/event-stream\r\n{header}\r\n"
        ).encode()

    def _patience(self) -> "_Patience":
        if self.quiet or not self._fickle or self._dice.random() < 0.3:
            return _Patience()
        if self._dice.random() < 0.5:
            return _Patience(seconds=self._dice.expovariate(1 / 0.2))
        return _Patience(items=self._dice.choice((1, 2, 3, 5, 8, 13)))

    def _note(self, item: Item) -> None:
        self.record.items.append(item)
        if isinstance(item, Delivered | Control) and item.id is not None:
            self._cursor = str(item.id)


class MergedFollower(Follower):
    """Follows a run on one stream with others, which have no logs.

    The record is that of the run alone. Each `id:` line says where the client is in it: what moves
    it without an event of the run is recorded as progress.
    """

    def __init__(self, name: str, run: str, others: int, *arguments: Any, **options: Any):
        super().__init__(name, run, *arguments, **options)
        self._others = [f"{run}-other-{number}" for number in range(others)]
        self._runs = RunList.of([run, *self._others])
        self._start = "latest" if self._start == "latest" else "earliest"
        self._reached: EventId | None = None

    def _place(self) -> str:
        return self._start if self._reached is None else str(self._reached)

    def _path(self) -> str:
        return "/events/stream?" + "".join(f"run={run}&" for run in [self.run, *self._others])

    def _note(self, item: Item) -> None:
        self.record.items.append(item)
        if isinstance(item, Delivered | Control) and item.id is not None:
            self._reached = item.id

    def _items(self, block: str, at: float) -> Iterator[Item]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        document = json.loads(fields["data"])
        events = document if isinstance(document, list) else [document]
        mine = [event for event in events if event["run_id"] == self.run]
        reached = None
        if "id" in fields:
            self._cursor = fields["id"]
            ids = MergedCursor.parse(self._cursor, self._runs, "id").ids
            reached = ids[self._runs.run_ids.index(self.run)]
        for event in mine:
            if event["event"]["category"] != "gateway":
                event_id = EventId.parse(event["id"])
                yield Delivered(at, event_id, event["data"]["number"], event["sequence"])
                continue
            action, requested = event["event"]["action"], event["data"].get("requested")
            if action == "caught_up":
                event_id = reached if event is mine[-1] else self._reached
                if event_id is None:
                    continue  # what follows it in the batch tells
                yield Control(at, action, event_id, requested)
            else:
                yield Control(at, action, None, requested)
                self._reached = None  # the end of the block tells
        if reached is not None and reached != self._reached:
            yield Control(at, "progress", reached, None)


class _Patience(NamedTuple):
    """After how many seconds or items a follower leaves; it stays if both are None."""

    seconds: float | None = None
    items: int | None = None


def parse(block: str, at: float) -> Iterator[Item]:
    """Yield the item of an SSE block."""
    fields = dict(line.split(": ", 1) for line in block.split("\n"))
    event = json.loads(fields["data"])
    event_id = EventId.parse(fields["id"]) if "id" in fields else None
    if event["event"]["category"] == "gateway":
        requested = event["data"].get("requested")
        yield Control(at, event["event"]["action"], event_id, requested)
    elif event_id is None or str(event_id) != event["id"]:
        raise ValueError(f"the id of {block!r}")
    else:
        yield Delivered(at, event_id, event["data"]["number"], event["sequence"])
