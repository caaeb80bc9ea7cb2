"""What is known of a run as a whole: its state, when it began and ended, and its last event."""

from dataclasses import dataclass
from typing import Literal

import orjson

from ..event import Event, one_line
from .log_state import LogState


@dataclass(frozen=True, slots=True)
class Run:
    """A run whose log exists.

    Attributes:
        run_id: the run.
        log: the state of its log.
        started_at: when its first event was appended (ISO 8601, UTC), None if nobody knows.
        last_event: the last event that the log retains, or None.
        meta_json: the JSON of the first event's data; `null` if it was trimmed, or is large.
    """

    run_id: str
    log: LogState
    started_at: str | None
    last_event: Event | None
    meta_json: bytes

    @property
    def state(self) -> Literal["active", "ended", "lost"]:
        """Whether the run goes on, has ended, or has ended since its producer was silent."""
        if not self.log.ended or self.last_event is None:
            return "active"
        return "lost" if self.last_event.action == "lost" else "ended"

    @property
    def ended_at(self) -> str | None:
        """When the terminal event was appended, None for a run that goes on."""
        return self.last_event.timestamp if self.last_event and self.log.ended else None

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
                "meta": orjson.Fragment(self.meta_json),
            }
        )
