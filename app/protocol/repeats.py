"""When a request is sent again, how long to wait before that, and how long to wait for data."""

import logging
import time

from ..streaming.backoff import backoff
from ..streaming.errors import StoreUnavailable
from .options import shown_url

# Seconds to connect (and to send), and seconds to wait for data. A long body is sent at the pace
# of the gateway's Redis. A followed stream gets something every 15 seconds.
USUAL_TIMEOUTS = (10.0, 15.0)
LONG_BODY_TIMEOUTS = (30.0, 60.0)
FOLLOW_TIMEOUTS = (10.0, 45.0)

# nginx waits for 60 seconds. A long body that is silent for this time gets a blank line, which
# means nothing: without it a proxy takes a silent producer for one that has gone.
SILENT_SECONDS = 15.0

INITIAL_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0

MAX_IDLE_CONNECTIONS = 100


# A short outage is no news.
QUIET_SECONDS = 2.0

log = logging.getLogger("tailrace.client")


class Repeats:
    """The attempts to send one request to the gateway at `url`, for `retry_seconds` from now.

    If they take more than QUIET_SECONDS, that is logged once.
    """

    def __init__(self, retry_seconds: float, url: str):
        self._began = time.monotonic()
        self._deadline = self._began + retry_seconds
        self._url = shown_url(url)
        self._was_logged = False
        self._pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        self._stored: bool | None = False

    def pause_after(self, error: StoreUnavailable) -> float | None:
        """Return the seconds to wait after a failed attempt, None if it was the last one.

        The `stored` of the last error is about all attempts.
        """
        self._stored = None if error.stored is None else self._stored
        now = time.monotonic()
        left = self._deadline - now
        if left <= 0:
            error.stored = self._stored
            return None
        pause = min(error.retry_after + next(self._pauses), left)
        if not self._was_logged and now + pause > self._began + QUIET_SECONDS:
            log.warning("cannot reach %s, trying again: %s", self._url, error)
            self._was_logged = True
        return pause

    def succeeded(self) -> None:
        """Log that the gateway is back, if it was logged to be away."""
        if self._was_logged:
            log.info("reached %s again", self._url)
