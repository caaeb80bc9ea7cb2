"""The writer of one run: it changes the run's key over HTTP and in Redis, as others may.

It repeats each change until it gets an answer, in a way that carries it out once. So its
history of the run is exact.
"""

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from app.streaming.event_id import ZERO, EventId
from app.streaming.log.redis_keys import log_key
from tests.schedules.followers import Way
from tests.schedules.history import Change, Entry, History, Log
from tests.schedules.http_writer import HttpWriter

PAUSE_SECONDS = 0.05
CATEGORIES = ("tool", "tool", "llm")

_ONCE = (Path(__file__).parent / "once.lua").read_text()


class Writer:
    """Makes every change of a run, one after another, and notes it in the history."""

    def __init__(
        self,
        run: str,
        ways: Sequence[Way],
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        dice: random.Random,
    ):
        self.run = run
        self.history = History()
        self._key = log_key(run)
        # In the slot of the log.
        self._away, self._marks = f"{{{self._key}}}:away", f"{{{self._key}}}:once"
        self._http = HttpWriter(run, ways, dice)
        self._client = client
        self._dice = dice
        self._numbers = 0
        self._renamed: Log | None = None

    # Over HTTP

    async def post(self, count: int = 1, padding: int = 0, action: str = "called") -> None:
        """Append events, as one batch if there are several. An ended run is begun again."""
        if self.history.ended:
            count, action = 1, "started"
        category = "lifecycle" if action in ("started", "completed") else None
        events = [self._event(category, action, padding) for _ in range(count)]
        first = events[0]["data"]["number"]
        change = Change(f"POST {_range(first, count)}{'' if category is None else f' {action}'}")
        body: Any = events if count > 1 else events[0]
        answer = await self._http.request(
            "POST", body, f'Idempotency-Key: "{first}"\r\n', {200, 201}
        )
        stored = answer["events"] if count > 1 else [answer]
        for event, given in zip(events, stored, strict=True):
            self._added(change, given["id"], event, given["sequence"])
        self.history.done(change)

    async def delete(self) -> None:
        change = Change("DELETE")
        await self._http.request("DELETE", None, "", {204})
        self.history.take_away(change)
        self.history.done(change)

    # In Redis

    async def xadd(
        self, count: int = 1, xdel: Sequence[int] = (), anew: bool = False, low_ids: bool = False
    ) -> None:
        """Add entries, and delete those at some places again, before anybody can read them.

        If `anew`, the log is deleted in the same moment. Low ids are those of no clock.
        """
        text = f"{'DEL, ' if anew else ''}XADD {_range(self._numbers, count)}"
        change = Change(text + "".join(f", XDEL {self._numbers + place}" for place in xdel))
        if anew:
            self.history.take_away(change)
        commands: list[Sequence[object]] = [("DEL", self._key)] if anew else []
        events = [self._event(None, "written", 0) for _ in range(count)]
        last, ids = self.history.last_id, []
        for sequence, event in enumerate(events, self.history.added + 1):
            last = self._next_id(last)
            # Only a known id can be deleted at once.
            event_id = str(last) if low_ids or xdel else "*"
            commands.append(("XADD", self._key, event_id, *self._fields(event, sequence)))
            ids.append(last)
        commands += [("XDEL", self._key, str(ids[place])) for place in xdel]
        given = await self._once(commands)
        for event, event_id in zip(events, given, strict=True):
            self._added(change, event_id, event, event.get("sequence"))
        added = self.history.retained[-count:]
        self.history.remove(change, [added[place] for place in xdel])
        self.history.done(change)

    async def xdel(self, entries: Sequence[Entry]) -> None:
        change = Change(f"XDEL {[entry.number for entry in entries]}")
        await self._once([("XDEL", self._key, *(str(entry.id) for entry in entries))])
        self.history.remove(change, list(entries))
        self.history.done(change)

    async def xtrim(self, retained: int) -> None:
        change = Change(f"XTRIM to {retained}")
        await self._once([("XTRIM", self._key, "MAXLEN", str(retained))])
        entries = self.history.retained
        self.history.remove(change, entries[: max(0, len(entries) - retained)])
        self.history.done(change)

    async def remove(self) -> None:
        await self._replace(Change("DEL"), ("DEL", self._key))

    async def expire(self, ms: int) -> None:
        """Let the log expire, and wait until it has."""
        change = Change(f"PEXPIRE {ms}")
        await self._once([("PEXPIRE", self._key, str(ms))])
        while await self._command("EXISTS", self._key):
            await asyncio.sleep(ms / 1000)
        self.history.take_away(change)
        self.history.done(change)

    async def overwrite(self) -> None:
        """Put a value of another type in the place of the log."""
        await self._replace(Change("SET"), ("SET", self._key, "x"), other_type=True)

    async def rename_away(self) -> None:
        """Give the log another name, so that the run has none."""
        self._renamed = self.history.log
        await self._replace(Change("RENAME away"), ("RENAME", self._key, self._away))

    async def rename_back(self) -> None:
        """Give the log its name back, in place of what the run has now."""
        change = Change("RENAME back")
        await self._once([("RENAME", self._away, self._key)])
        assert self._renamed is not None
        self.history.put_back(change, self._renamed)
        self.history.done(change)

    async def close(self) -> None:
        """Delete the run's keys, and hang up."""
        self._http.hang_up()
        await self._command("DEL", self._key, self._away, self._marks)

    def hang_up(self) -> None:
        """Abort the connection to the gateway."""
        self._http.hang_up()

    # Inside

    def _event(self, category: str | None, action: str, padding: int) -> dict[str, Any]:
        self._numbers += 1
        return {
            "event_category": category or self._dice.choice(CATEGORIES),
            "event_action": action,
            "data": {"number": self._numbers - 1, "padding": "x" * padding},
        }

    def _fields(self, event: dict[str, Any], sequence: int) -> list[str]:
        """Return all fields of an entry, or some. The event loses those that it lacks."""
        data = ["data", json.dumps(event["data"])]
        form = self._dice.random()
        if form < 0.2:
            del event["event_category"], event["event_action"]
            return data
        names = [
            part for name in ("event_category", "event_action") for part in (name, event[name])
        ]
        if form < 0.6:
            event["sequence"] = sequence
            data += ["sequence", str(sequence), "timestamp", "2026-11-26T14:28:06.341Z"]
        return [*names, *data]

    def _next_id(self, last: EventId) -> EventId:
        """Return an id that others may choose: close after the last one, low in a new log."""
        if last == ZERO:
            return EventId(self._dice.choice((1, 1, 5)), self._dice.choice((1, 2)))
        return (
            EventId(last.ms, last.n + 1) if self._dice.random() < 0.5 else EventId(last.ms + 1, 0)
        )

    def _added(
        self, change: Change, event_id: str, event: dict[str, Any], sequence: int | None
    ) -> None:
        number = event["data"]["number"]
        names = event.get("event_category"), event.get("event_action")
        self.history.add(change, EventId.parse(event_id), number, sequence, *names)

    async def _replace(
        self, change: Change, command: Sequence[object], other_type: bool = False
    ) -> None:
        await self._once([command])
        self.history.take_away(change)
        self.history.done(change, other_type)

    async def _once(self, commands: Sequence[Sequence[object]]) -> list[str]:
        """Run commands once, however often they must be sent; return the ids that they added."""
        mark = len(self.history.states)
        keys = self._marks, self._key, self._away
        arguments = *keys, mark, json.dumps(commands)
        given = await self._command("EVAL", _ONCE, len(keys), *arguments)
        return [each.decode() for each in given]

    async def _command(self, *command: Any) -> Any:
        """Send a command until it is answered."""
        while True:
            try:
                return await self._client.execute_command(*command)
            except (RedisError, RedisClusterException, OSError) as error:
                if type(error) is ResponseError:
                    raise
            except AttributeError:
                # redis-py's client of a cluster, when it closes all connections to a node while
                # one of them is being opened.
                if not isinstance(self._client, redis.asyncio.RedisCluster):
                    raise
            await asyncio.sleep(PAUSE_SECONDS)


def _range(first: int, count: int) -> str:
    return f"{first}" if count == 1 else f"{first} to {first + count - 1}"
