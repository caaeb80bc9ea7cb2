"""What all subscribers of a worker share."""

from dataclasses import dataclass

from ..event_store import EventStore
from .heartbeats import Heartbeats
from .history import History
from .reader_pool import ReaderPool


@dataclass(frozen=True, slots=True)
class Services:
    """What all subscribers of a worker share."""

    store: EventStore
    readers: ReaderPool
    history: History
    heartbeats: Heartbeats
    heartbeat_seconds: float = 15.0
    retry_ms: int = 3000
