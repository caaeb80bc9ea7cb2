"""The events that wait in an appender, and the queue of one that sends in a thread.

`put` may be called in a signal handler, which may have interrupted any code of its own thread,
`put` included. That code goes on only after the handler returns. So nothing here takes a lock
that an interrupted caller could keep from the handler or from the sender.
"""

import contextlib
import threading
from collections import deque
from typing import Generic, NamedTuple, TypeVar

from .new_event import MAX_EVENT_BYTES, MAX_EVENTS, NewEvent
from .reentrancy import one_call_per_thread

MAX_WAITING_EVENTS = 10_000
MAX_WAITING_BYTES = 8 * 1024 * 1024
# Beyond these, for terminal events that cannot wait: without its last one, a run never ends.
MAX_WAITING_ENDS = 10

# An event in the queue, its lease, and the bytes of all events that were put up to this one.
_Waiting = tuple[NewEvent, int | None, int]

Mark = TypeVar("Mark")


class Wakeup:
    """What a thread waits for until another thread calls `wake`: a lock that is taken.

    Its release is one step, which no signal handler can interrupt. An Event or a Condition has
    another lock inside, which an interrupted caller could hold. A SimpleQueue of gevent does not
    work between the threads of a process that gevent has patched.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        """Let `wait` return once; do nothing if it is to return already."""
        if self._lock.locked():
            with contextlib.suppress(RuntimeError):  # another thread was faster
                self._lock.release()

    def wait(self, timeout: float = -1) -> bool:
        """Wait for up to `timeout` seconds, -1 without a limit; return whether it was woken."""
        return self._lock.acquire(timeout=timeout)


class Taken(NamedTuple, Generic[Mark]):
    """What the sender took: events to append together, and the marks among them."""

    new_events: list[NewEvent]
    lease_seconds: int | None
    marks: list[Mark]


class WaitingEvents(Generic[Mark]):
    """The events that are not sent yet, with a mark for each caller that waits until they are."""

    def __init__(self) -> None:
        self._items: deque[_Waiting | Mark] = deque()
        self._put_bytes = self._taken_bytes = 0

    def is_empty(self) -> bool:
        """Return whether nothing waits."""
        return not self._items

    def count_events(self) -> int:
        """Return how many events wait."""
        return sum(isinstance(item, tuple) for item in self._items.copy())

    def is_full(self, ends: int = 0) -> bool:
        """Return whether the next event should wait: for 10,000 events or about 8 MiB.

        `ends` is how many events there may be beyond that.
        """
        waiting = len(self._items)
        if waiting >= MAX_WAITING_EVENTS + ends:
            return True
        most = MAX_WAITING_BYTES + ends * MAX_EVENT_BYTES
        return waiting > 0 and self._put_bytes - self._taken_bytes >= most

    def has_place_for(self, new_event: NewEvent) -> bool:
        """Return whether an event that cannot wait is taken; a terminal one has a reserve."""
        return not self.is_full(MAX_WAITING_ENDS if new_event.terminal else 0)

    def put(self, new_event: NewEvent, lease_seconds: int | None) -> None:
        """Add an event, even if there is no room."""
        # If a handler or another thread puts an event in between, the count lacks its bytes.
        # What matters is the difference to the bytes taken: the next event corrects it.
        self._put_bytes = put_bytes = self._put_bytes + new_event.size
        self._items.append((new_event, lease_seconds, put_bytes))

    def put_mark(self, mark: Mark) -> None:
        """Add a mark, which comes after all events before it."""
        self._items.append(mark)

    def take_batch(self, max_bytes: int) -> Taken[Mark]:
        """Take a batch of about `max_bytes`.

        A batch ends with a terminal event: the log may refuse the events after it, but must
        store those before.
        """
        new_events: list[NewEvent] = []
        marks: list[Mark] = []
        lease, size = None, 0
        while self._items:
            item = self._items.popleft()
            if not isinstance(item, tuple):
                marks.append(item)
                continue
            new_event, lease_seconds, self._taken_bytes = item
            new_events.append(new_event)
            lease = lease_seconds or lease
            size += new_event.size
            if len(new_events) == MAX_EVENTS or size >= max_bytes or new_event.terminal:
                break
        return Taken(new_events, lease, marks)


class EventQueue(WaitingEvents[Wakeup]):
    """Wakes the sender, and those who wait. Any thread may put; one at a time may take."""

    def __init__(self) -> None:
        super().__init__()
        self._news = Wakeup()  # for the sender
        self._waiting_for_room: deque[Wakeup] = deque()

    def wait_for_room(self) -> None:
        """Wait until the sender has sent a batch.

        Raises ReentrantCall in a signal handler that interrupted a call: the sender may have to
        wait for that call.
        """
        one_call_per_thread.check()
        room = Wakeup()
        self._waiting_for_room.append(room)
        if self.is_full():  # still, so the sender will see the wakeup
            room.wait()

    def put(self, new_event: NewEvent, lease_seconds: int | None) -> None:
        """Add an event, even if there is no room, and wake the sender."""
        super().put(new_event, lease_seconds)
        self._news.wake()

    def put_wakeup(self) -> Wakeup:
        """Return a wakeup that comes after all events before it are sent."""
        wakeup = Wakeup()
        self.put_mark(wakeup)
        self._news.wake()
        return wakeup

    def take(self, timeout: float, max_bytes: int) -> Taken[Wakeup] | None:
        """Wait up to `timeout` seconds for an item, and take a batch. Return None if none came."""
        while self.is_empty():
            if not self._news.wait(timeout):
                return None
        return self.take_batch(max_bytes)

    def wake(self, taken: Taken[Wakeup]) -> None:
        """Wake the callers that wait for what was taken, and those that wait for room."""
        for wakeup in taken.marks:
            wakeup.wake()
        while self._waiting_for_room:
            self._waiting_for_room.popleft().wake()
