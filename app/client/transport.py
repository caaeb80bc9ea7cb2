"""Sends requests to one gateway over shared connections, and raises errors by their types."""

import os
import time
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests

from ..streaming.backoff import backoff
from ..streaming.errors import InvalidInput, StoreUnavailable
from ..streaming.reentrancy import one_call_per_thread
from .connections import Adapter
from .early_response import EarlyResponseAdapter
from .responses import CONNECTION_ERRORS, check_whole, connection_error, parse_error

# Seconds to connect (and to send), and seconds to wait for data. A long body is sent at the pace
# of the gateway's Redis. A followed stream gets something every 15 seconds.
USUAL_TIMEOUTS = (10.0, 15.0)
LONG_BODY_TIMEOUTS = (30.0, 60.0)
FOLLOW_TIMEOUTS = (10.0, 45.0)

INITIAL_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0

MAX_IDLE_CONNECTIONS = 100


class Transport:
    """Sends requests to the gateway at `url`.

    Any number of threads may share it, and a forked process gets its own connections. In a
    signal handler that interrupted a request of the same thread, `request` and `send_once` raise
    ReentrantCall: that request may hold a lock of the connection pool.
    """

    def __init__(self, url: str, retry_seconds: float):
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InvalidInput("url", "must begin with http:// or https://")
        self._url = url.rstrip("/")
        self.retry_seconds = retry_seconds
        self._begin()

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request, and repeat it for `retry_seconds` while there is no response.

        `options` are those of `requests.request`. Returns a response of status 2xx. Raises the
        error that another response describes, or StoreUnavailable.
        """
        thread = one_call_per_thread.check()
        try:
            one_call_per_thread.enter(thread)
            return self._send_or_repeat(method, path, options)
        finally:
            one_call_per_thread.leave(thread)

    def send_once(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request as `request` does, but do not repeat it."""
        thread = one_call_per_thread.check()
        try:
            one_call_per_thread.enter(thread)
            return self._send(method, path, options)
        finally:
            one_call_per_thread.leave(thread)

    def send_body(self, path: str, body: Iterator[bytes], **options: Any) -> requests.Response:
        """POST a body as it is made, once, until the gateway responds.

        The request has a connection to itself: meanwhile the thread may make other requests.
        """
        with _new_session(EarlyResponseAdapter()) as session:
            options["headers"] = {**options.get("headers", {}), "Connection": "close"}
            options["timeout"] = LONG_BODY_TIMEOUTS
            return self._send_over(session, "POST", path, {**options, "data": body})

    def close(self) -> None:
        """Close the connections that are not in use."""
        one_call_per_thread.check()
        self._session.close()

    def _begin(self) -> None:
        self._session, self._process = _new_session(), os.getpid()

    def _send_or_repeat(self, method: str, path: str, options: dict[str, Any]) -> requests.Response:
        deadline = time.monotonic() + self.retry_seconds
        pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        stored: bool | None = False
        while True:
            try:
                return self._send(method, path, options)
            except StoreUnavailable as error:
                stored = None if error.stored is None else stored
                left = deadline - time.monotonic()
                if left <= 0:
                    error.stored = stored  # by any of the attempts
                    raise
                pause = error.retry_after + next(pauses)
            time.sleep(min(pause, left))

    def _send(self, method: str, path: str, options: dict[str, Any]) -> requests.Response:
        if self._process != os.getpid():  # a fork: the connections belong to the parent
            self._begin()
        return self._send_over(self._session, method, path, options)

    def _send_over(
        self, session: requests.Session, method: str, path: str, options: dict[str, Any]
    ) -> requests.Response:
        options = {"timeout": USUAL_TIMEOUTS, **options}
        # requests would turn a redirected POST into a GET.
        options["allow_redirects"] = method == "GET"
        try:
            response = session.request(method, self._url + path, **options)
            if 200 <= response.status_code < 300:
                if not options.get("stream"):
                    check_whole(response)
                return response
            with response:
                check_whole(response)
                error = parse_error(response)
        except CONNECTION_ERRORS as broken:
            raise connection_error(broken) from broken
        raise error


def _new_session(adapter: Adapter | None = None) -> requests.Session:
    """Make a session that threads may share: its only state is its pool of connections."""
    session = requests.Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    adapter = adapter or Adapter(pool_maxsize=MAX_IDLE_CONNECTIONS)
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session
