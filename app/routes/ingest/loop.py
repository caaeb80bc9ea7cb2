"""One loop reads all requests of lines, and appends what has come in one round trip.

A hundred producers of fifty lines a second give one every 200 µs. A turn and a round trip for
each line would cost what a request does, so the loop rests after a round, as readers do after a
burst. A line that comes after silence is read at once.
"""

import logging
import time
from functools import partial
from selectors import EVENT_READ
from typing import Any

import gevent
from gevent.event import Event
from gevent.monkey import get_original
from werkzeug.exceptions import HTTPException

from ...server.nonblocking_body import NonBlockingBody
from ...streaming.errors import StoreUnavailable
from ...streaming.event_store import EventStore
from ...streaming.follow.client_socket import READABLE
from .ingest import Ingest, Pace, about_to_stop, append_together

# What one round takes of all connections, about, so that what else the worker does has its turn,
# and of each of many: who has much to say must not keep those waiting who have a line.
ROUND_BYTES = 64 * 1024
MIN_SHARE_BYTES = 2 * 1024

# So much earlier than readers, who act at whole flush intervals, does the loop: then they find
# what it has appended, and the worker is awake for both. As a share of the interval.
EARLIER = 1 / 8

# So often the lines are looked at that have begun and not come to their end.
SWEEP_SECONDS = 1.0

log = logging.getLogger("tailrace.stream")


class IngestLoop:
    """The requests of lines that this worker reads."""

    def __init__(self, store: EventStore, flush_seconds: float):
        self._store = store
        self._flush_seconds = flush_seconds
        self._open: dict[_Request, None] = {}
        self._due: dict[_Request, None] = {}  # those to see to, in the order of their turns
        self._halfway: set[_Request] = set()
        self._swept = 0.0
        self._awake = Event()
        self._selector = None

    def read(self, ingest: Ingest, body: NonBlockingBody) -> None:
        """Read a request until it is over; raises 400 where what stands behind it is malformed."""
        if self._selector is None:
            # gevent's own is for waiting. This one is asked without, for all that are ready.
            self._selector = get_original("selectors", "DefaultSelector")()
            gevent.spawn(self._run)
        request = _Request(ingest, body)
        self._selector.register(body, EVENT_READ, request)
        try:
            self._open[request] = None
            ingest.wake = partial(self._see_to, request)
            self._see_to(request)  # something may have come with its head
            request.done.wait()
        finally:  # unless it is over, the worker does not wait any longer
            ingest.break_off(about_to_stop())
            ingest.wake = None
            self._leave(request)
        body.give_back()

    def _see_to(self, request: "_Request") -> None:
        self._due[request] = None
        self._awake.set()

    def _leave(self, request: "_Request") -> None:
        """Read nothing more of a request; safe to repeat."""
        if request in self._open:
            del self._open[request]
            self._selector.unregister(request.body)
            self._due.pop(request, None)
            self._halfway.discard(request)

    def _run(self) -> None:
        watcher = gevent.get_hub().loop.io(self._selector.fileno(), READABLE)
        while True:
            try:
                self._turn(watcher)
            except Exception as error:
                log.exception("unexpected error in streaming ingest")
                self._give_up(error)
                gevent.sleep(1.0)  # whatever it is, it must not take up the worker

    def _turn(self, watcher: Any) -> None:
        """Wait until somebody is due, see to those who are, and rest."""
        self._sweep()
        self._find_ready()
        if self._due:
            gevent.sleep(self._until_next() if self._round() else 0)
            return
        self._awake.clear()
        watcher.start(self._awake.set)
        self._awake.wait(SWEEP_SECONDS if self._halfway else None)
        watcher.stop()

    def _until_next(self) -> float:
        flush = self._flush_seconds
        return flush - (time.monotonic() + EARLIER * flush) % flush if flush else 0.0

    def _find_ready(self) -> None:
        self._due.update([(key.data, None) for key, _ in self._selector.select(0)])

    def _round(self) -> bool:
        """See to those who are due, each up to its share; whether that was all there was."""
        share = max(MIN_SHARE_BYTES, ROUND_BYTES // len(self._due))
        requests, size, all_read = [], 0, True
        while self._due and size < ROUND_BYTES:
            request = next(iter(self._due))
            del self._due[request]
            request.take_in(share)
            size += max(request.body.taken, request.ingest.size)
            all_read = all_read and not request.body.has_more
            requests.append(request)
        lost = append_together([request.ingest for request in requests], self._store)
        if lost is not None:
            self._tell_others(lost)
        for request in requests:
            self._look_after(request)
        return size > 0 and all_read and not self._due

    def _tell_others(self, lost: StoreUnavailable) -> None:
        """Have those who are due not wait for Redis one after the other."""
        self._find_ready()
        for request in self._due:
            request.ingest.refuse(StoreUnavailable(str(lost)))

    def _look_after(self, request: "_Request") -> None:
        """After its turn: let it go, or see to it again, now or when something comes."""
        if request.ingest.over:
            self._end(request)
        elif request in self._open:  # and was not killed meanwhile
            if request.ingest.has_lines or request.ingest.reason is not None:
                self._due[request] = None
            if request.pace.begun is not None:
                self._halfway.add(request)
            elif request in self._halfway:
                self._halfway.remove(request)

    def _end(self, request: "_Request") -> None:
        self._leave(request)
        request.done.set()

    def _sweep(self) -> None:
        """See to those from whom something is due for too long, which may have come meanwhile."""
        now = time.monotonic()
        if now >= self._swept + SWEEP_SECONDS:
            self._swept = now
            self._due.update([(each, None) for each in self._halfway if each.pace.too_slow])

    def _give_up(self, error: Exception) -> None:
        for request in list(self._open):
            request.ingest.refuse(error)
            self._end(request)


class _Request:
    """A request of lines that is open, and who waits for its end."""

    __slots__ = ("body", "done", "ingest", "pace")

    def __init__(self, ingest: Ingest, body: NonBlockingBody):
        self.ingest = ingest
        self.body = body
        self.pace = Pace()
        self.done = Event()

    def take_in(self, size: int) -> None:
        """Take in some bytes of what has come, where earlier lines do not wait any more."""
        ingest, body = self.ingest, self.body
        if ingest.closed or ingest.has_lines:
            return
        if piece := body.receive(size):
            ingest.take_in(piece)
        if body.broken is not None:
            ingest.break_off(body.broken)
        elif body.ended:
            ingest.finish()
        elif ingest.reason is not None:
            ingest.break_off(about_to_stop())
        else:
            self._check_pace()

    def _check_pace(self) -> None:
        """Break off where a line does not come to its end, or what stands behind the body."""
        ingest, body = self.ingest, self.body
        waits = ingest.is_halfway or body.is_ending
        try:
            self.pace.check(waits, moved_on=ingest.has_lines or body.has_more)
        except HTTPException as error:
            ingest.break_off(error)
