"""The index of runs: two sorted sets in Redis, of the runs that are active and that have ended.

It holds the ids of all runs, ordered by their last known activity. It may be out of date, so its
readers look at the log of each run too. No script touches both a log and the index, because they
are in different slots of a cluster.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from heapq import merge
from pathlib import Path
from typing import Literal, NamedTuple

from ..errors import InvalidInput
from ..redis.connection import Reply, checked
from ..redis.scripts import Connection, Script

HERE = Path(__file__).parent

ACTIVE, ENDED = "tailrace:{runs}:active", "tailrace:{runs}:ended"

# How many runs one command reads or notes.
CHUNK = 500

# Of so many runs one command asks whether they are known: appends wait behind it.
KNOWN_AT_ONCE = 100

_VERSION = "r1"
_CURSOR = re.compile(r"r1\.([0-9]{1,16})\.([A-Za-z0-9_.-]{1,128}|~)")

# Behind every run id.
_LAST = "~"

# Runs whose last activity was in the same millisecond have different ranks, mostly.
_RANKS_PER_MS = 1000

RunState = Literal["active", "ended", "gone"]


class Noted(NamedTuple):
    """What is noted of a run: its state, and the time of its last activity in Unix ms."""

    run_id: str
    state: RunState
    ms: int = 0


class Place(NamedTuple):
    """The place of a run in the list, which begins with the latest; as text it is a cursor."""

    score: int
    run_id: str

    @classmethod
    def of(cls, run_id: str, ms: int) -> "Place":
        """Return the place of a run whose last activity was at a Unix time in milliseconds."""
        ms = min(ms, 10**12 * 8)  # others may write any id; scores are exact up to 2^53
        return cls(-(ms * _RANKS_PER_MS + zlib.crc32(run_id.encode()) % _RANKS_PER_MS), run_id)

    @classmethod
    def parse(cls, cursor: str, field: str) -> "Place":
        """Read a cursor; raises InvalidInput, which names `field`."""
        match = _CURSOR.fullmatch(cursor) if len(cursor) <= 200 else None
        if match is None:
            raise InvalidInput(field, "must be the `next` of a page of runs")
        return cls(-int(match[1]), match[2])

    @property
    def ms(self) -> int:
        """The time of the run's last known activity in Unix milliseconds."""
        return -self.score // _RANKS_PER_MS

    @property
    def behind(self) -> "Place":
        """The place behind all runs of the same score; it names none of them."""
        return Place(self.score, _LAST)

    def __str__(self) -> str:
        return f"{_VERSION}.{-self.score}.{self.run_id}"


class RunIndex:
    """Notes and lists the runs. Every method raises StoreUnavailable."""

    def __init__(self, shared: Connection):
        self._shared = shared
        self._script = Script(shared, HERE / "index.lua", keys=2)

    def note(self, noted: Sequence[Noted]) -> list[bool]:
        """Note what is known of some runs; return for each whether that is news.

        It is none if it was known, or something later was.
        """
        return self._run("note", noted)

    def ask(self, noted: Sequence[Noted]) -> list[bool]:
        """Return what `note` would, and note nothing."""
        return self._run("ask", noted)

    def _run(self, verb: str, noted: Sequence[Noted]) -> list[bool]:
        news: list[bool] = []
        for first in range(0, len(noted), CHUNK):
            arguments: list[str | int] = [verb]
            for each in noted[first : first + CHUNK]:
                arguments += (each.run_id, Place.of(each.run_id, each.ms).score, each.state)
            news += map(bool, self._script.run(ACTIVE, ENDED, *arguments))
        return news

    def places(
        self, state: Literal["active", "ended"] | None = None, after: Place | None = None
    ) -> Iterator[Place]:
        """Yield the places of the runs, the latest activity first, from behind a place on.

        They are read as they are needed. A run that moves meanwhile may come twice, or not at all.
        """
        keys = [ACTIVE, ENDED] if state is None else [ACTIVE if state == "active" else ENDED]
        yield from merge(*(self._places_in(key, after) for key in keys))

    def sizes(self) -> dict[str, int]:
        """Return how many runs are active, and how many have ended, as far as is noted."""
        active, ended = map(checked, self._shared.call_all(("ZCARD", ACTIVE), ("ZCARD", ENDED)))
        return {"active": active, "ended": ended}

    def known(self, run_ids: Sequence[str]) -> list[bool]:
        """Return for each run whether it is in the index."""
        found: list[bool] = []
        for first in range(0, len(run_ids), KNOWN_AT_ONCE):
            some = run_ids[first : first + KNOWN_AT_ONCE]
            commands = [("ZSCORE", key, run_id) for run_id in some for key in (ACTIVE, ENDED)]
            scores = [checked(reply) is not None for reply in self._shared.call_all(*commands)]
            found += (any(pair) for pair in zip(scores[::2], scores[1::2], strict=True))
        return found

    def _places_in(self, key: str, after: Place | None) -> Iterator[Place]:
        lowest, skipped = ("-inf" if after is None else str(after.score)), 0
        while True:
            reply = self._shared.call(
                *("ZRANGEBYSCORE", key, lowest, "+inf", "WITHSCORES"),
                *("LIMIT", skipped, CHUNK),
            )
            places = _parse_places(checked(reply))
            for place in places:
                if after is None or place > after:
                    yield place
            if len(places) < CHUNK:
                return
            last = places[-1].score
            same = sum(place.score == last for place in places)
            skipped = skipped + same if str(last) == lowest else same
            lowest = str(last)


def _parse_places(reply: Reply) -> list[Place]:
    """Return the places of a reply WITHSCORES: a flat list in RESP2, pairs in RESP3."""
    if reply and not isinstance(reply[0], list):
        reply = zip(reply[::2], reply[1::2], strict=True)
    return [Place(int(float(score)), run_id.decode()) for run_id, score in reply]
