"""The queue between the callers of `Appender.emit` and the thread that sends the events.

`put` may be called in a signal handler, which may have interrupted any code of its own thread,
`put` included. That code goes on only after the handler returns. So nothing here takes a lock
that an interrupted caller could keep from the handler or from the sender.
"""

import contextlib
import queue
from collections import deque
from typing import NamedTuple

from .new_event import MAX_EVENTS, NewEvent
from .reentrancy import one_call_per_thread

MAX_WAITING_EVENTS = 10_000
MAX_WAITING_BYTES = 8 * 1024 * 1024

# A caller waits in `get` until the sender puts None. An Event or a Condition has a lock, which
# an interrupted caller could hold.
Wakeup = queue.SimpleQueue[None]

# An event in the queue, its lease, and the bytes of all events that were put up to this one.
_Waiting = tuple[NewEvent, int | None, int]


class Taken(NamedTuple):
    """What the sender took: events to append together, and callers to wake after that."""

    new_events: list[NewEvent]
    lease_seconds: int | None
    wakeups: list[Wakeup]


class EventQueue:
    """Holds up to 10,000 events or about 8 MiB. Any thread may put; one at a time may take."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Waiting | Wakeup] = queue.SimpleQueue()
        self._put_bytes = self._taken_bytes = 0
        self._waiting_for_room: deque[Wakeup] = deque()

    def is_empty(self) -> bool:
        """Return whether nothing waits."""
        return self._queue.empty()

    def is_full(self) -> bool:
        """Return whether `put` has to wait."""
        waiting = self._queue.qsize()
        if waiting >= MAX_WAITING_EVENTS:
            return True
        return waiting > 0 and self._put_bytes - self._taken_bytes >= MAX_WAITING_BYTES

    def wait_for_room(self) -> None:
        """Wait until the sender has sent a batch.

        Raises ReentrantCall in a signal handler that interrupted a call: the sender may have to
        wait for that call.
        """
        one_call_per_thread.check()
        room: Wakeup = queue.SimpleQueue()
        self._waiting_for_room.append(room)
        if self.is_full():  # still, so the sender will see the wakeup
            room.get()

    def put(self, new_event: NewEvent, lease_seconds: int | None) -> None:
        """Add an event, even if the queue is full."""
        # If a handler or another thread puts an event in between, the count lacks its bytes.
        # What matters is the difference to the bytes taken: the next event corrects it.
        self._put_bytes = put_bytes = self._put_bytes + new_event.size
        self._queue.put((new_event, lease_seconds, put_bytes))

    def put_wakeup(self) -> Wakeup:
        """Return a wakeup that comes after all events before it are sent."""
        wakeup: Wakeup = queue.SimpleQueue()
        self._queue.put(wakeup)
        return wakeup

    def take(self, timeout: float, max_bytes: int) -> Taken | None:
        """Wait up to `timeout` seconds for an item, and take a batch of about `max_bytes`.

        Returns None if nothing came. A batch ends with a terminal event: the log may refuse the
        events after it, but must store those before.
        """
        new_events: list[NewEvent] = []
        wakeups: list[Wakeup] = []
        lease, size = None, 0
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(timeout=timeout)
            while True:
                if isinstance(item, tuple):
                    new_event, lease_seconds, self._taken_bytes = item
                    new_events.append(new_event)
                    lease = lease_seconds or lease
                    size += new_event.size
                    if len(new_events) == MAX_EVENTS or size >= max_bytes or new_event.terminal:
                        break
                else:
                    wakeups.append(item)
                item = self._queue.get_nowait()
        return Taken(new_events, lease, wakeups) if new_events or wakeups else None

    def wake(self, taken: Taken) -> None:
        """Wake the callers that wait for what was taken, and those that wait for room."""
        for wakeup in taken.wakeups:
            wakeup.put(None)
        while self._waiting_for_room:
            self._waiting_for_room.popleft().put(None)
