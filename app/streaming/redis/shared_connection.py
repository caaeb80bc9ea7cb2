"""One connection that concurrent callers share: group commit for appends.

A caller that comes while no other caller leads becomes the leader. It sends at once what waits,
its own command among it, and reads the replies. Then it wakes the first of the callers that came
meanwhile, and that one leads. So a single caller waits for nobody, needs no other thread, and
pays for no pool.

An exception such as KeyboardInterrupt may end a leader anywhere. Then the next leader finds what
was left undone and finishes it.
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context

from redis.exceptions import RedisError

from ...metrics.catalog import ROUND_TRIP_COMMANDS
from ..errors import NotReplicated, StoreUnavailable
from ..reentrancy import one_call_per_thread
from .acknowledgement import Acknowledgement
from .availability import Availability
from .connection import (
    Argument,
    Command,
    RedisConnection,
    Reply,
    count_error,
    exchange_packed,
    hang_up,
    has_nothing_to_read,
    is_not_master,
    kind_of,
    pack,
    reason_of,
)
from .sentinel import leads_to_master

# One round trip carries no more than this, so that no caller waits long for others' bytes.
MAX_COMMANDS = 256
MAX_BYTES = 1024 * 1024

# A caller that waits looks this often whether there still is a leader. It finds none only after
# an exception has ended one in the middle of waking the next.
LOOK_SECONDS = 1.0

_INTERRUPTED = "the thread that was sending this command was interrupted"


class SharedConnection:
    """Sends the commands of all callers over one connection, in the order in which they came.

    `connect` makes the connection, not yet connected. No command is ever sent twice. The clock
    `availability` learns when Redis was out of reach.

    With an `acknowledgement`, replicas are asked once behind the commands of each round trip. If
    too few have what was written, the reply to each command that was carried out is
    Unacknowledged.

    Attributes:
        has_connected: whether it ever had a connection.
    """

    def __init__(
        self,
        connect: Callable[[], RedisConnection],
        availability: Availability,
        acknowledgement: Acknowledgement | None = None,
    ):
        self._connect = connect
        self._availability = availability
        self._acknowledgement = acknowledgement
        self.has_connected = False
        self._reset()
        # A forked child must not use the connection of its parent, nor wait for the parent's
        # threads.
        reset = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := reset()) and method())

    def call(self, *command: Argument) -> Reply:
        """Send one command and return its raw reply, an error reply as a value.

        Raises StoreUnavailable, whose `stored` says whether Redis may have executed the
        command, and ReentrantCall in a signal handler that has interrupted a call.
        """
        return self.call_all(command)[0]

    def call_all(self, *commands: Command) -> list[Reply]:
        """Send commands together and return their raw replies. Raises what `call` raises."""
        thread = one_call_per_thread.check()
        request = _Request(pack(*commands), len(commands))
        try:
            one_call_per_thread.enter(thread)
            self._waiting.append(request)
            self._wait_or_lead(request)
        except BaseException:  # KeyboardInterrupt, or a greenlet is killed
            request.settle()  # so that no leader sends it any more
            self._wake_next()
            raise
        finally:
            one_call_per_thread.leave(thread)
        if request.error is not None:
            raise request.error
        return request.replies

    def call_each(self, *commands: Command) -> list[Reply]:
        """Do what `call_all` does: what fails on one server fails for all of them."""
        return self.call_all(*commands)

    def close(self) -> None:
        """Close the connection. A call that is in progress fails; the next one connects anew."""
        if self._batch and (link := self._link) is not None:
            hang_up(link)  # its leader may be using it, and disconnects it then
        else:
            self._disconnect()

    def _reset(self) -> None:
        # The leader runs inside this context. Python lets in only one caller at a time. An
        # exception takes the caller out, at every point of the code. No lock does that.
        self._leadership = Context()
        self._waiting: deque[_Request] = deque()  # only the leader removes any
        self._batch: list[_Request] = []  # what the leader carries out
        self._sent = False  # whether that may have reached Redis
        self._link: RedisConnection | None = None

    def _wait_or_lead(self, request: "_Request") -> None:
        if self._batch or self._waits_behind_another(request):
            request.prepare_to_wait()
            # Another caller is woken before this one. To lead now would make for small batches.
            if self._waits_behind_another(request):
                request.wait()
        while not request.settled:
            if self._lead_alone():
                self._wake_next()
            elif request.wake is None:
                request.prepare_to_wait()
                # and try once more: the leader may have looked for `wake` a moment ago
            else:
                request.wait()

    def _waits_behind_another(self, request: "_Request") -> bool:
        try:
            first = self._waiting[0]
        except IndexError:  # the leader has taken all
            return False
        return first is not request and not first.settled

    def _lead_alone(self) -> bool:
        """Lead, and return True; or return False if another caller leads."""
        try:
            self._leadership.run(self._lead)
        except RuntimeError:  # somebody is inside
            return False
        return True

    def _wake_next(self) -> None:
        """Wake the first caller that waits, to lead. Call it after the leader has left."""
        for request in tuple(self._waiting):
            if not request.settled:
                request.wake_up()
                return

    def _lead(self) -> None:
        """Carry out one batch of what waits."""
        if self._batch:  # its leader was interrupted
            self._give_up(_INTERRUPTED)
        try:
            self._take_batch()
            self._carry_out()
        except (RedisError, OSError, RuntimeError) as error:  # the last would look as above
            count_error(error)
            reason, kind = reason_of(error), kind_of(error)
            self._give_up(reason, kind)
            self._fail_waiting(reason, kind)
        except BaseException:
            self._give_up(_INTERRUPTED)
            raise

    def _take_batch(self) -> None:
        self._sent = False
        commands = size = 0
        while self._waiting and commands < MAX_COMMANDS and size < MAX_BYTES:
            request = self._waiting[0]
            if not request.settled:
                self._batch.append(request)
                commands += request.commands
                size += len(request.packed)
            self._waiting.popleft()

    def _carry_out(self) -> None:
        if not self._batch:
            return
        link = self._ensure_connected()
        self._sent = True
        packed, began = b"".join([each.packed for each in self._batch]), time.monotonic()
        commands = sum([each.commands for each in self._batch])
        asked, reason = self._acknowledgement, None
        if asked is None:
            replies = exchange_packed(link, packed, commands)
        else:
            *replies, waited = exchange_packed(link, packed + asked.packed, commands + 1)
            reason = asked.judge(replies, waited)
        ROUND_TRIP_COMMANDS.observe(commands)
        self._availability.replied(time.monotonic() - began)
        if any(map(is_not_master, replies)):  # the next connection may lead to the master
            self._disconnect()
        first = 0
        for request in self._batch:
            request.replies = replies[first : first + request.commands]
            first += request.commands
            request.settle()
        self._batch.clear()
        if reason is not None:
            self._availability.interrupted()  # what producers append is not acknowledged
            self._fail_waiting(f"not sent, since replicas lag behind: {reason}", NotReplicated)

    def _fail_waiting(self, reason: str, kind: type[StoreUnavailable] = StoreUnavailable) -> None:
        """Fail what was not sent yet: it would fail only after another timeout."""
        while self._waiting:
            self._waiting[0].fail(kind(reason, stored=False))
            self._waiting.popleft()

    def _give_up(self, reason: str, kind: type[StoreUnavailable] = StoreUnavailable) -> None:
        """Drop the connection, and fail what has no replies of the batch."""
        self._disconnect()
        for request in self._batch:
            if not request.settled:
                request.fail(kind(reason, None if self._sent else False))
        self._batch.clear()

    def _ensure_connected(self) -> RedisConnection:
        """Connect, unless there is a connection that Redis has not closed meanwhile."""
        link = self._link
        if link is not None and leads_to_master(link) and has_nothing_to_read(link):
            return link
        self._disconnect()
        link = self._connect()
        link.connect()
        self._link, self.has_connected = link, True
        self._availability.interrupted()  # nobody knows what was before
        return link

    def _take_link(self) -> RedisConnection | None:
        link, self._link = self._link, None
        return link

    def _disconnect(self) -> None:
        link = self._take_link()
        if link is not None:
            link.disconnect()


class _Request:
    """One caller's commands, and what became of them."""

    __slots__ = ("commands", "error", "packed", "replies", "settled", "wake")

    def __init__(self, packed: bytes, commands: int):
        self.packed = packed
        self.commands = commands
        self.settled = False  # it has its replies or its error, or nobody waits for it
        self.replies: list[Reply] = []
        self.error: StoreUnavailable | None = None
        self.wake: threading.Lock | None = None  # released when it is settled, or may lead

    def prepare_to_wait(self) -> None:
        wake = threading.Lock()  # an Event would break if an exception ended its methods
        wake.acquire()
        self.wake = wake

    def wait(self) -> None:
        """Wait until it is woken up, or until it is time to look for a leader."""
        if self.wake is not None:
            self.wake.acquire(timeout=LOOK_SECONDS)

    def wake_up(self) -> None:
        if self.wake is not None and self.wake.locked():
            with suppress(RuntimeError):  # another thread has just released it
                self.wake.release()

    def fail(self, error: StoreUnavailable) -> None:
        self.error = error
        self.settle()

    def settle(self) -> None:
        self.settled = True
        self.wake_up()
