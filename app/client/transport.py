"""Sends requests to one gateway over shared connections, and raises errors by their types."""

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import requests

from ..streaming.backoff import backoff
from ..streaming.errors import InvalidInput, Refused, StoreUnavailable
from ..streaming.reentrancy import one_call_per_thread
from .connections import Adapter
from .credentials import Credentials
from .early_response import EarlyResponseAdapter
from .responses import CONNECTION_ERRORS, Answer, connection_error, parse_answer, parse_error
from .session import Session

# Seconds to connect (and to send), and seconds to wait for data. A long body is sent at the pace
# of the gateway's Redis. A followed stream gets something every 15 seconds.
USUAL_TIMEOUTS = (10.0, 15.0)
LONG_BODY_TIMEOUTS = (30.0, 60.0)
FOLLOW_TIMEOUTS = (10.0, 45.0)

INITIAL_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0

# What the client sends by itself.
OWN_HEADERS = (
    *("accept", "accept-encoding", "authorization", "connection", "content-length"),
    *("content-type", "host", "idempotency-key", "last-event-id", "transfer-encoding"),
)

MAX_IDLE_CONNECTIONS = 100


class Transport:
    """Sends requests to the gateway at `url`.

    Any number of threads may share it, and a forked process gets its own connections. In a
    signal handler that interrupted a request of the same thread, `request`, `send_once` and
    `open_stream` raise ReentrantCall: that request may hold a lock of the connection pool.
    """

    def __init__(
        self,
        url: str,
        retry_seconds: float,
        credentials: Credentials,
        headers: Mapping[str, str],
        verify: bool | str,
    ):
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InvalidInput("url", "must begin with http:// or https://")
        self._url = url.rstrip("/")
        self.retry_seconds = retry_seconds
        self.credentials = credentials
        self._headers = _checked_headers(headers)
        self._verify = verify
        self._begin()
        self._session.check_url(self._url)

    def request(self, method: str, path: str, **options: Any) -> Answer:
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

    def send_once(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request as `request` does, but do not repeat it."""
        thread = one_call_per_thread.check()
        try:
            one_call_per_thread.enter(thread)
            return self._send(method, path, options)
        finally:
            one_call_per_thread.leave(thread)

    def send_body(self, path: str, body: Iterator[bytes], **options: Any) -> Answer:
        """POST a body as it is made, once, until the gateway responds.

        The request has a connection to itself: meanwhile the thread may make other requests.
        """
        with Session(EarlyResponseAdapter(), self._headers, self._verify) as session:
            options["headers"] = {**options.get("headers", {}), "Connection": "close"}
            options["timeout"] = LONG_BODY_TIMEOUTS
            response = self._open(session, "POST", path, {**options, "data": body})
            return _read(response)

    def open_stream(self, path: str, **options: Any) -> requests.Response:
        """Send a GET once, and return its response, of status 2xx, before its body is read."""
        thread = one_call_per_thread.check()
        try:
            one_call_per_thread.enter(thread)
            options["timeout"] = FOLLOW_TIMEOUTS
            return self._open(self._own_session(), "GET", path, options)
        finally:
            one_call_per_thread.leave(thread)

    def close(self) -> None:
        """Close the connections that are not in use."""
        one_call_per_thread.check()
        self._session.close()

    def _begin(self) -> None:
        adapter = Adapter(pool_maxsize=MAX_IDLE_CONNECTIONS)
        self._session = Session(adapter, self._headers, self._verify)
        self._process = os.getpid()

    def _own_session(self) -> Session:
        if self._process != os.getpid():  # a fork: the connections belong to the parent
            self._begin()
        return self._session

    def _send_or_repeat(self, method: str, path: str, options: dict[str, Any]) -> Answer:
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

    def _send(self, method: str, path: str, options: dict[str, Any]) -> Answer:
        return _read(self._open(self._own_session(), method, path, options))

    def _open(
        self, session: Session, method: str, path: str, options: dict[str, Any]
    ) -> requests.Response:
        """Send a request, and return a response of status 2xx before its body is read."""
        options = {"timeout": USUAL_TIMEOUTS, **options, "stream": True}
        token = self.credentials.current()
        try:
            response = session.request(
                method, self._url + path, auth=self.credentials.auth(token), **options
            )
            is_repeatable = isinstance(options.get("data", b""), bytes)
            if response.status_code == 401 and is_repeatable and self.credentials.renew(token):
                response.close()  # nothing was done
                auth = self.credentials.auth(self.credentials.current())
                response = session.request(method, self._url + path, auth=auth, **options)
            if 200 <= response.status_code < 300:
                return response
            with response:
                error = parse_error(response)
        except CONNECTION_ERRORS as broken:
            raise connection_error(broken) from broken
        except requests.TooManyRedirects as endless:
            last: requests.Response = endless.response  # type: ignore[assignment]
            last.close()
            raise Refused(last.status_code, str(endless)) from endless
        except (requests.RequestException, OSError) as wrong:
            # The environment has changed since `check_url`.
            raise InvalidInput("url", f"cannot be reached as set up: {wrong}") from wrong
        raise error


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name in headers:
        if name.lower() in OWN_HEADERS:
            raise InvalidInput("headers", f"{name} is set by the client itself")
    return dict(headers)


def _read(response: requests.Response) -> Answer:
    with response:
        try:
            return parse_answer(response)
        except CONNECTION_ERRORS as broken:
            raise connection_error(broken) from broken
