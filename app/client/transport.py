"""Sends requests to one gateway over shared connections, and raises errors by their types."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import requests

from ..streaming.backoff import backoff
from ..streaming.errors import InvalidInput, NotAllowed, Refused, StoreUnavailable, StreamingError
from ..streaming.reentrancy import one_call_per_thread
from .connections import Adapter
from .credentials import Bearer, Credentials
from .early_response import Body, EarlyResponseAdapter
from .responses import CONNECTION_ERRORS, Answer, connection_error, parse_answer, parse_error
from .session import Session, check_headers, check_verify

# Seconds to connect (and to send), and seconds to wait for data. A long body is sent at the pace
# of the gateway's Redis. A followed stream gets something every 15 seconds.
USUAL_TIMEOUTS = (10.0, 15.0)
LONG_BODY_TIMEOUTS = (30.0, 60.0)
FOLLOW_TIMEOUTS = (10.0, 45.0)

INITIAL_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0

MAX_IDLE_CONNECTIONS = 100


class Opened(NamedTuple):
    """A response of status 2xx before its body is read, and what sent the token for it."""

    response: requests.Response
    bearer: Bearer | None


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
        verify: bool | str | os.PathLike[str],
    ):
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InvalidInput("url", "must begin with http:// or https://")
        self._url = url.rstrip("/")
        self.retry_seconds = retry_seconds
        self.credentials = credentials
        self._new_session = partial(
            Session,
            headers=check_headers(headers),
            verify=check_verify(verify),
            has_token=credentials.given,
        )
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
        options["headers"] = {**options.get("headers", {}), "Connection": "close"}
        options |= {"timeout": LONG_BODY_TIMEOUTS, "data": Body(body)}
        with contextlib.ExitStack() as sessions:

            def new_session() -> Session:
                self._begin_in_child()
                return sessions.enter_context(self._new_session(EarlyResponseAdapter()))

            return _read(self._open(new_session, "POST", path, options).response)

    def open_stream(self, method: str, path: str, **options: Any) -> Opened:
        """Send a request once, and return its response before its body is read."""
        thread = one_call_per_thread.check()
        try:
            one_call_per_thread.enter(thread)
            options["timeout"] = FOLLOW_TIMEOUTS
            return self._open(self._own_session, method, path, options)
        finally:
            one_call_per_thread.leave(thread)

    def close(self) -> None:
        """Close the connections that are not in use."""
        one_call_per_thread.check()
        self._session.close()

    def _begin(self) -> None:
        self._session = self._new_session(Adapter(pool_maxsize=MAX_IDLE_CONNECTIONS))
        self._process = os.getpid()

    def _begin_in_child(self) -> None:
        if self._process != os.getpid():  # a fork: the connections belong to the parent
            self.credentials.begin()
            self._begin()

    def _own_session(self) -> Session:
        self._begin_in_child()
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
        return _read(self._open(self._own_session, method, path, options).response)

    def _open(
        self, session: Callable[[], Session], method: str, path: str, options: dict[str, Any]
    ) -> Opened:
        """Send a request, and return its response before its body is read.

        After a 401 it is sent once more with another token, if there may be one: the gateway has
        done nothing. A body of which something was sent cannot be sent again.
        """
        outcome, bearer = self._exchange(session(), method, path, options)
        if isinstance(outcome, NotAllowed) and outcome.status == 401:
            body = options.get("data")
            can_change = self.credentials.drop(bearer)
            if can_change and (not isinstance(body, Body) or body.is_unsent):
                outcome, bearer = self._exchange(session(), method, path, options)
        if isinstance(outcome, StreamingError):
            raise outcome
        return Opened(outcome, bearer)

    def _exchange(
        self, session: Session, method: str, path: str, options: dict[str, Any]
    ) -> tuple[requests.Response | StreamingError, Bearer | None]:
        """Send a request with the token. Return its response, or the error that it describes."""
        options = {"timeout": USUAL_TIMEOUTS, **options, "stream": True}
        bearer = self.credentials.current()  # what the user's function raises is not translated
        try:
            response = session.request(method, self._url + path, auth=bearer, **options)
            if 200 <= response.status_code < 300:
                return response, bearer
            with response:
                return parse_error(response), bearer
        except CONNECTION_ERRORS as broken:
            raise connection_error(broken) from broken
        except requests.TooManyRedirects as endless:
            last: requests.Response = endless.response  # type: ignore[assignment]
            last.close()
            raise Refused(last.status_code, str(endless)) from endless
        except (requests.RequestException, OSError) as wrong:
            # The environment has changed since `check_url`.
            raise InvalidInput("url", f"cannot be reached as set up: {wrong}") from wrong


def _read(response: requests.Response) -> Answer:
    with response:
        try:
            return parse_answer(response)
        except CONNECTION_ERRORS as broken:
            raise connection_error(broken) from broken
