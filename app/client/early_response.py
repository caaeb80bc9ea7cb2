"""An HTTP adapter for long bodies of lines: it stops sending once the server has responded.

A server that refuses part of a body responds at once. For a while it discards what still comes,
and then it closes the connection. A client that goes on sending could see a reset instead of
the response.
"""

import contextlib
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

from urllib3.connection import HTTPConnection
from urllib3.util import wait_for_read

from .connections import Adapter, Connection, SecureConnection
from .keepalive import with_keepalive


class Body:
    """The lines of a body, for one attempt after another while none of them was sent."""

    def __init__(self, lines: Iterator[bytes]):
        self.is_unsent = True
        self._lines = lines
        self._held: list[bytes] = []  # the first line, once it was taken and until it is sent
        self._is_due = False

    def begin(self) -> None:
        """Begin an attempt, which first sends headers."""
        self._is_due = False

    def __iter__(self) -> Iterator[bytes]:
        for line in itertools.chain(tuple(self._held), self._lines):
            if self.is_unsent:
                self._held, self._is_due = [line], True
            yield line

    def note_sending(self) -> None:
        """Note that something is sent now: a line, if this attempt has taken one."""
        if self._is_due:
            self.is_unsent, self._held = False, []


class _Connection(Connection):
    # If sending fails with a BrokenPipeError, urllib3 reads the response all the same.

    def request(self, method: str, url: str, body: Any = None, *args: Any, **kwargs: Any) -> None:
        self._body: Body = body
        body.begin()
        with _lines_of(self, body) as lines:
            super().request(method, url, lines, *args, **kwargs)

    def send(self, data: Any) -> None:
        if self.sock is not None and wait_for_read(self.sock, timeout=0):
            raise BrokenPipeError
        self._body.note_sending()
        with _errors_as_broken_pipe():
            super().send(data)


class _SecureConnection(SecureConnection):
    # Over TLS the socket is also readable without a response (session tickets). So an early
    # response is noticed only when sending fails.

    def request(self, method: str, url: str, body: Any = None, *args: Any, **kwargs: Any) -> None:
        self._body: Body = body
        body.begin()
        with _lines_of(self, body) as lines:
            super().request(method, url, lines, *args, **kwargs)

    def send(self, data: Any) -> None:
        self._body.note_sending()
        with _errors_as_broken_pipe():
            super().send(data)


class EarlyResponseAdapter(Adapter):
    """Sends a body until the server responds, and returns that response.

    Use a session for one request only: an early response leaves its connection unusable.
    """

    connection_class = _Connection
    secure_connection_class = _SecureConnection


@contextlib.contextmanager
def _lines_of(connection: HTTPConnection, body: Body) -> Iterator[Iterator[bytes]]:
    """Give the lines of a body; send blank lines, each in its own chunk, between slow ones."""
    blank_line = partial(connection.send, b"1\r\n\n\r\n")
    with contextlib.closing(with_keepalive(body, blank_line)) as lines:
        yield lines


@contextlib.contextmanager
def _errors_as_broken_pipe() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BrokenPipeError from error
