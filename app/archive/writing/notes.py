"""What archivers note of a log in Redis: who copies it, how far, and since when it is held.

The archive itself does not rely on it: these notes save work, and keep logs from expiring.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ...streaming.errors import NotALog, StoreUnavailable
from ...streaming.event_id import EventId
from ...streaming.log.log_state import LogState
from ...streaming.log.reader import LogReader
from ...streaming.log.redis_keys import archiving_key, log_key, redis_keys
from ...streaming.redis.connection import Reply

HERE = Path(__file__).parent

# An archiver renews its claim more often than that.
CLAIM_SECONDS = 30

# A log that was held and is archived now is kept this long at least, for those who read it.
RELEASED_SECONDS = 60

_PLACE_DIGITS = 16


class Look(NamedTuple):
    """A log as the archiver sees it.

    Attributes:
        run_id: whose log it is.
        ended: whether the run has ended.
        is_archived: whether an archiver has noted that all of it is archived.
        silent_seconds: for how long nothing was appended.
        expires_in: after how many seconds Redis removes it, None if never.
    """

    run_id: str
    ended: bool
    is_archived: bool
    silent_seconds: float
    expires_in: float | None


class Held(NamedTuple):
    """When a log expires, and the limit of holding it: Unix times in ms; -1 if it never expires."""

    expires_at: int
    limit_at: int

    @property
    def is_at_limit(self) -> bool:
        """Whether the log cannot be held any longer."""
        return self.expires_at >= self.limit_at > 0


class Notes:
    """Writes and reads the notes of one archiver. Raises NotALog and StoreUnavailable.

    Args:
        reader: reads the logs.
        name: names the archiver.
        place: names the archive. What is archived elsewhere is not archived here.
    """

    def __init__(self, reader: LogReader, name: str, place: str = ""):
        self._name = name
        self._place = hashlib.sha256(place.encode()).hexdigest()[:_PLACE_DIGITS]
        self._look = reader.script(HERE / "look.lua", keys=2, reads=True)
        self._claim = reader.script(HERE / "claim.lua", keys=2)
        self._hold = reader.script(HERE / "hold.lua", keys=4)
        self._archived = reader.script(HERE / "archived.lua", keys=4)

    def look(self, run_ids: Sequence[str]) -> list[Look | None]:
        """Return how some logs are, None for one that is not there or is none.

        It is None too for one whose node of a cluster does not answer, unless none does.
        """
        if not run_ids:
            return []
        replies = self._look.run_each([(log_key(each), archiving_key(each)) for each in run_ids])
        if all(isinstance(each, StoreUnavailable) for each in replies):
            raise replies[0]
        return [self._parse_look(*each) for each in zip(run_ids, replies, strict=True)]

    def claim(self, run_id: str) -> tuple[bool, bool]:
        """Claim a log, or renew the claim.

        Returns whether it is claimed now, and whether an attempt before may have left objects.
        """
        reply = self._claim.run(
            log_key(run_id), archiving_key(run_id), self._name, CLAIM_SECONDS * 1000
        )
        return reply > 0, reply > 1

    def hold(self, run_id: str, limit: float, wanted: float, until: float) -> Held | None:
        """Keep a log that would expire within `wanted` seconds for `until` seconds from now.

        `limit` is for how many seconds at most after it would have expired. None without a log.
        """
        milliseconds = [int(1000 * each) for each in (limit, wanted, until)]
        reply = self._hold.run(*redis_keys(run_id), archiving_key(run_id), *milliseconds)
        return Held(*reply) if reply else None

    def archived(self, run_id: str, state: LogState) -> None:
        """Note that a log is archived as far as its state says, and give up the claim."""
        self._finish(run_id, self._mark(state.last_id, state.last_sequence))

    def give_up(self, run_id: str) -> None:
        """Give up the claim of a log that is not archived."""
        self._finish(run_id, "")

    def _finish(self, run_id: str, mark: str) -> None:
        arguments = self._name, mark, RELEASED_SECONDS * 1000
        self._archived.run(*redis_keys(run_id), archiving_key(run_id), *arguments)

    def _parse_look(self, run_id: str, reply: Reply) -> Look | None:
        if not reply or isinstance(reply, NotALog | StoreUnavailable):
            return None
        last_id, added, ended, expires_at, archived, now = reply
        last = EventId.from_redis(last_id)
        return Look(
            run_id,
            ended=bool(ended),
            is_archived=archived.decode() == self._mark(last, added),
            silent_seconds=(now - last.ms) / 1000,
            expires_in=None if expires_at < 0 else (expires_at - now) / 1000,
        )

    def _mark(self, last_id: EventId, added: int) -> str:
        return f"{last_id} {added} {self._place}"
