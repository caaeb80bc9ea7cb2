"""What is known of a run as a whole: its state, and when it began and ended."""

from dataclasses import dataclass
from typing import Literal

import orjson

from ..event import Event, one_line, timestamp_of
from .log_state import LogState

# A Run keeps the data and the source of an event only if their JSON is no larger than this.
MAX_META_BYTES = 4096

_EPOCH_DIGITS = 16  # of a time in microseconds, up to the year 2286


@dataclass(frozen=True, slots=True)
class Run:
    """A run whose log exists.

    Attributes:
        run_id: the run.
        log: the state of its log.
        epoch: the epoch that the last event says; empty if it says none.
        first_event: the first event that the log retains, or None.
        last_event: the last event that the log retains, or None. Large data of both are left out.
    """

    run_id: str
    log: LogState
    epoch: bytes
    first_event: Event | None
    last_event: Event | None

    @property
    def state(self) -> Literal["active", "ended", "lost"]:
        """Whether the run goes on, has ended, or has ended since its producer was silent."""
        if not self.log.ended or self.last_event is None:
            return "active"
        return "lost" if self.last_event.action == "lost" else "ended"

    @property
    def started_at(self) -> str | None:
        """When the first event was appended (ISO 8601, UTC), None if nobody knows."""
        if self._beginning is not None:
            return self._beginning.timestamp
        if len(self.epoch) == _EPOCH_DIGITS:
            return timestamp_of(int(self.epoch) // 1000)
        return None

    @property
    def ended_at(self) -> str | None:
        """When the terminal event was appended, None for a run that goes on."""
        return self.last_event.timestamp if self.last_event and self.log.ended else None

    @property
    def meta_json(self) -> bytes:
        """The JSON of the first event's data; `null` if it was trimmed, or is large."""
        return b"null" if self._beginning is None else self._beginning.data_json

    @property
    def _beginning(self) -> Event | None:
        """The first event of the run, if the log still has it."""
        return self.first_event if self.log.first_sequence == 1 else None

    def to_json(self) -> bytes:
        """Return the run as HTTP clients get it: JSON in UTF-8, on one line."""
        log, last = self.log, self.last_event
        return one_line(
            {
                "run_id": self.run_id,
                "state": self.state,
                "started_at": self.started_at,
                "ended_at": self.ended_at,
                "last_event": last
                and {"id": last.id, "timestamp": last.timestamp, "event": last.event},
                "length": log.length,
                "first_id": str(log.first_id) if log.first_id else None,
                "last_id": str(log.last_id),
                "last_sequence": log.last_sequence,
                "ended": log.ended,
                "ttl": log.ttl,
                "lease_seconds": None if log.ended else log.lease_seconds,
                "meta": orjson.Fragment(self.meta_json),
            }
        )
