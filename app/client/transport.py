"""Requests to one gateway: connections that threads share, repeats, and errors by their types."""

import os
import random
import threading
import time
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from ..streaming.errors import InvalidInput, StoreUnavailable
from .early_response import EarlyResponseAdapter
from .responses import BROKEN, connection_error, parse_error

# Seconds for a connection, which are those for sending too, and seconds for an answer. A long
# body is sent at the pace of the gateway's Redis; of a followed stream something comes every
# 15 seconds.
USUAL_TIMEOUTS = (10.0, 15.0)
LONG_BODY_TIMEOUTS = (30.0, 60.0)
FOLLOW_TIMEOUTS = (10.0, 45.0)

INITIAL_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0

KEPT_CONNECTIONS = 100


class Transport:
    """Sends requests to the gateway at `url`; for any number of threads, and over forks."""

    def __init__(self, url: str, retry_seconds: float):
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InvalidInput("url", "must begin with http:// or https://")
        self._url = url.rstrip("/")
        self.retry_seconds = retry_seconds
        self._begin()

    def send_once(self, method: str, path: str, **options: Any) -> requests.Response:
        """One attempt: an answer of 2xx; raises what another one tells, or StoreUnavailable.

        `options` are those of `requests.request`.
        """
        if self._process != os.getpid():  # these connections are the parent's
            self._begin()
        me, inside = threading.get_ident(), self._inside
        if me in inside:  # so this is a signal handler, and the pool may be held beneath it
            with _new_session() as session:
                return self._send(session, method, path, **options)
        try:
            inside.add(me)
            return self._send(self._session, method, path, **options)
        finally:
            inside.discard(me)

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """The same, repeated for `retry_seconds` while there is no answer."""
        until = time.monotonic() + self.retry_seconds
        stored: bool | None = False
        for pause in pauses():
            try:
                return self.send_once(method, path, **options)
            except StoreUnavailable as error:
                stored = None if error.stored is None else stored
                left = until - time.monotonic()
                if left <= 0:
                    error.stored = stored  # by any of the attempts
                    raise
                time.sleep(min(error.retry_after + pause, left))
        raise AssertionError("pauses never end")

    def send(self, path: str, body: Iterator[bytes], **options: Any) -> requests.Response:
        """One attempt to POST a body as it is made, which the answer may cut short."""
        with _new_session(EarlyResponseAdapter()) as session:
            options["headers"] = {**options.get("headers", {}), "Connection": "close"}
            options["timeout"] = LONG_BODY_TIMEOUTS
            return self._send(session, "POST", path, data=body, **options)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._session.close()

    def _begin(self) -> None:
        self._session, self._process = _new_session(), os.getpid()
        self._inside: set[int] = set()  # the threads that are in a request

    def _send(
        self, session: requests.Session, method: str, path: str, **options: Any
    ) -> requests.Response:
        options.setdefault("timeout", USUAL_TIMEOUTS)
        # A redirected POST becomes a GET.
        options["allow_redirects"] = method == "GET"
        try:
            response = session.request(method, self._url + path, **options)
            if 200 <= response.status_code < 300:
                return response
            with response:
                error = parse_error(response)
        except BROKEN as broken:
            raise connection_error(broken) from broken
        raise error


def pauses() -> Iterator[float]:
    """Seconds to wait before one attempt after another, longer and longer, at random."""
    longest = INITIAL_PAUSE_SECONDS
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(MAX_PAUSE_SECONDS, 2 * longest)


def _new_session(adapter: HTTPAdapter | None = None) -> requests.Session:
    """A session whose pool of connections is its only state, so that threads may share it."""
    session = requests.Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    adapter = adapter or HTTPAdapter(pool_maxsize=KEPT_CONNECTIONS)
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session
