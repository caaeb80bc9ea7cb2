"""The token that a client sends, and asks for anew when the gateway no longer accepts it."""

import re
import threading
from collections.abc import Callable

import requests

from ..streaming.errors import InvalidInput

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1


class BearerAuth(requests.auth.AuthBase):
    """Sends a token with one request. A redirect to another host does not get it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Credentials:
    """A token, or a function that returns one; all threads of a client share what it returned."""

    def __init__(self, token: str | Callable[[], str] | None) -> None:
        """Raises InvalidInput for a token that no header can carry."""
        self._ask = token if callable(token) else None
        self._token = None if callable(token) else _checked(token)
        self._lock = threading.Lock()

    def auth(self, token: str | None) -> BearerAuth | None:
        """Return what sends a token, as `requests` takes it."""
        return None if token is None else BearerAuth(token)

    def current(self) -> str | None:
        """Return the token to send. What the function raises is not caught."""
        if self._ask is not None and self._token is None:
            with self._lock:
                if self._token is None:
                    self._token = _checked(self._ask())
        return self._token

    def forget(self) -> None:
        """Ask for a token before the next request, if there is a function to ask."""
        if self._ask is not None:
            self._token = None

    def renew(self, refused: str | None) -> bool:
        """Forget a token that was refused; return whether there can be another."""
        if self._ask is None:
            return False
        with self._lock:
            if self._token == refused:  # else another thread has asked meanwhile
                self._token = None
        return True


def _checked(token: str | None) -> str | None:
    if token is not None and not (isinstance(token, str) and _TOKEN.fullmatch(token)):
        raise InvalidInput("token", "must have the characters of a bearer token")
    return token
