"""Waiting for a socket to be readable, without a timer for each wait.

gevent makes a `Timeout` for each wait of a socket that has a timeout. A wait for Redis mostly comes
after a pause, with little of its code in the caches of the processor; then the `Timeout` costs as
much as the wait itself. So one timer looks at all waits of a hub, and they end a little late.
"""

import socket
import time
from contextlib import suppress
from typing import Any

with suppress(ImportError):  # then there is no gevent either, and nobody waits here
    from greenlet import getcurrent

# So late a wait may end.
TICK_SECONDS = 0.1
# A shorter one has a timer of its own.
MIN_SECONDS = 0.5


def wait_readable(connected: socket.socket) -> None:
    """Wait for something to read, where to read too early would cost an exception.

    It waits as long as the timeout of the socket says, and raises TimeoutError then. Elsewhere, it
    returns at once.
    """
    watcher = getattr(connected, "_read_event", None)  # only gevent's sockets have one
    if watcher is None or type(connected) is not socket.socket:  # TLS may have read too much
        return
    seconds = connected.timeout
    if seconds is None or seconds < MIN_SECONDS:
        connected._wait(watcher)  # type: ignore[attr-defined]
        return
    hub, waiting = connected.hub, getcurrent()  # type: ignore[attr-defined]
    waits = getattr(hub, "tailrace_waits", None) or _Waits(hub)
    waits.until[waiting] = time.monotonic() + seconds
    if not waits.timer.active:
        waits.timer.start(waits.look)
    try:
        hub.wait(watcher)
    finally:
        del waits.until[waiting]


class _Waits:
    """The waits of a hub, which keeps them.

    Attributes:
        until: when the wait of each greenlet that waits is over, a monotonic time.
        timer: calls `look` while there are any.
    """

    def __init__(self, hub: Any):
        self.until: dict[Any, float] = {}
        self.timer = hub.loop.timer(TICK_SECONDS, TICK_SECONDS, ref=False)
        hub.tailrace_waits = self

    def look(self) -> None:
        """End the waits that are over. The hub calls it."""
        now = time.monotonic()
        for waiting in [each for each, until in self.until.items() if until <= now]:
            if waiting in self.until:
                waiting.throw(TimeoutError("timed out"))
        if not self.until:
            self.timer.stop()
