"""Sends requests to one gateway over shared connections, and raises errors by their types."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import requests

from ..protocol.bearer import Bearer
from ..protocol.calls import Request
from ..protocol.options import check_headers, check_url, check_verify
from ..protocol.repeats import (
    FOLLOW_TIMEOUTS,
    LONG_BODY_TIMEOUTS,
    MAX_IDLE_CONNECTIONS,
    USUAL_TIMEOUTS,
    Repeats,
)
from ..protocol.responses import Answer, parse_answer, parse_error
from ..streaming.errors import InvalidInput, NotAllowed, Refused, StoreUnavailable, StreamingError
from ..streaming.reentrancy import one_call_per_thread
from .connections import Adapter
from .credentials import Credentials
from .early_response import Body, EarlyResponseAdapter
from .reading import CONNECTION_ERRORS, connection_error, read
from .session import Session


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
        self._url = check_url(url)
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

    def request(self, request: Request) -> Answer:
        """Send a request, and repeat it for `retry_seconds` while there is no response.

        Returns a response of status 2xx. Raises the error that another response describes, or
        StoreUnavailable.
        """
        thread = one_call_per_thread.check()
        try:
            one_call_per_thread.enter(thread)
            return self._send_or_repeat(request)
        finally:
            one_call_per_thread.leave(thread)

    def send_once(self, request: Request) -> Answer:
        """Send a request as `request` does, but do not repeat it."""
        thread = one_call_per_thread.check()
        try:
            one_call_per_thread.enter(thread)
            return self._send(request)
        finally:
            one_call_per_thread.leave(thread)

    def send_body(self, request: Request, body: Iterator[bytes]) -> Answer:
        """Send a request with a body as it is made, once, until the gateway responds.

        The request has a connection to itself: meanwhile the thread may make other requests.
        """
        options = _options(request, LONG_BODY_TIMEOUTS)
        options["headers"] = {**request.headers, "Connection": "close"}
        options["data"] = Body(body)
        with contextlib.ExitStack() as sessions:

            def new_session() -> Session:
                self._begin_in_child()
                return sessions.enter_context(self._new_session(EarlyResponseAdapter()))

            return _read(self._open(new_session, request, options).response)

    def open_stream(self, request: Request) -> Opened:
        """Send a request once, and return its response before its body is read."""
        thread = one_call_per_thread.check()
        try:
            one_call_per_thread.enter(thread)
            return self._open(self._own_session, request, _options(request, FOLLOW_TIMEOUTS))
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

    def _send_or_repeat(self, request: Request) -> Answer:
        repeats = Repeats(self.retry_seconds, self._url)
        while True:
            try:
                answer = self._send(request)
            except StoreUnavailable as error:
                pause = repeats.pause_after(error)
                if pause is None:
                    raise
            else:
                repeats.succeeded()
                return answer
            time.sleep(pause)

    def _send(self, request: Request) -> Answer:
        options = _options(request, USUAL_TIMEOUTS)
        return _read(self._open(self._own_session, request, options).response)

    def _open(
        self, session: Callable[[], Session], request: Request, options: dict[str, Any]
    ) -> Opened:
        """Send a request, and return its response before its body is read.

        After a 401 it is sent once more with another token, if there may be one: the gateway has
        done nothing. A body of which something was sent cannot be sent again.
        """
        outcome, bearer = self._exchange(session(), request, options)
        if isinstance(outcome, NotAllowed) and outcome.status == 401:
            body = options.get("data")
            can_change = self.credentials.drop(bearer)
            if can_change and (not isinstance(body, Body) or body.is_unsent):
                outcome, bearer = self._exchange(session(), request, options)
        if isinstance(outcome, StreamingError):
            raise outcome
        return Opened(outcome, bearer)

    def _exchange(
        self, session: Session, request: Request, options: dict[str, Any]
    ) -> tuple[requests.Response | StreamingError, Bearer | None]:
        """Send a request with the token. Return its response, or the error that it describes."""
        url = self._url + request.path
        bearer = self.credentials.current()  # what the user's function raises is not translated
        try:
            response = session.request(request.method, url, auth=bearer, **options)
            if 200 <= response.status_code < 300:
                return response, bearer
            return parse_error(read(response)), bearer
        except CONNECTION_ERRORS as broken:
            raise connection_error(broken) from broken
        except requests.TooManyRedirects as endless:
            last: requests.Response = endless.response  # type: ignore[assignment]
            last.close()
            raise Refused(last.status_code, str(endless)) from endless
        except (requests.RequestException, OSError) as wrong:
            # The environment has changed since `check_url`.
            raise InvalidInput("url", f"cannot be reached as set up: {wrong}") from wrong


def _options(request: Request, timeouts: tuple[float, float]) -> dict[str, Any]:
    """Return how `requests` is to send a request."""
    return {
        "params": request.query,
        "headers": request.headers,
        "data": request.body,
        "timeout": timeouts,
        "stream": True,
    }


def _read(response: requests.Response) -> Answer:
    try:
        return parse_answer(read(response))
    except CONNECTION_ERRORS as broken:
        raise connection_error(broken) from broken
