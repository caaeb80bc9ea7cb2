"""What a follower saw, in order. All times are from `time.monotonic`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from app.streaming.event_id import EventId


class Opened(NamedTuple):
    """The follower asked for a stream: after an id, or `earliest`, `latest` or `tail=N`."""

    at: float
    start: str
    way: str

    def __str__(self) -> str:
        return f"asks {self.way} for {self.start}"


class Refused(NamedTuple):
    """The answer had a status other than 200."""

    at: float
    status: int

    def __str__(self) -> str:
        return f"gets {self.status}"


class Delivered(NamedTuple):
    """An event of the log."""

    at: float
    id: EventId
    number: int
    sequence: int | None

    def __str__(self) -> str:
        return f"event {self.number} id={self.id} sequence={self.sequence}"


class Control(NamedTuple):
    """A control event; `id` is that of its `id:` line, if it has one."""

    at: float
    action: str
    id: EventId | None
    requested: str | None

    def __str__(self) -> str:
        line = f" id={self.id}" if self.id is not None else ""
        return f"gateway.{self.action}{line} requested={self.requested}"


class Broken(NamedTuple):
    """Bytes that are no part of a stream."""

    at: float
    what: str

    def __str__(self) -> str:
        return f"broken: {self.what}"


class Closed(NamedTuple):
    """The connection ended: the follower cut it, it broke, or the body ended."""

    at: float
    how: str

    def __str__(self) -> str:
        return f"the connection is over: {self.how}"


Item = Opened | Refused | Delivered | Control | Broken | Closed


@dataclass(frozen=True)
class Selection:
    """The filter of a follower: its category, or None for every event."""

    category: str | None = None

    def passes(self, category: str | None, terminal: bool) -> bool:
        return self.category is None or terminal or category == self.category


@dataclass
class Record:
    """The items of one follower, and its filter."""

    name: str
    selection: Selection
    items: list[Item] = field(default_factory=list)

    def story(self) -> Iterator[tuple[float, str]]:
        """Yield the time of each item, and what it was."""
        for item in self.items:
            yield item.at, f"    {item}"
