"""The token that a client sends, and asks for anew when the gateway no longer accepts it."""

import threading
from collections.abc import Callable

from ..protocol.bearer import Bearer
from ..streaming.errors import ReentrantCall, copy_of


class Credentials:
    """A token, or a function that returns one. All threads share what it returned."""

    def __init__(self, token: str | Callable[[], str] | None):
        """Raises InvalidInput for a wrong token."""
        self._ask = token if callable(token) else None
        self._bearer = None if token is None or callable(token) else Bearer(token)
        self._failure: Exception | None = None
        self.given = token is not None
        self.begin()

    def begin(self) -> None:
        """Begin anew in a forked child: a thread of the parent may hold the lock."""
        self._lock = threading.RLock()
        self._asking: int | None = None  # the thread that calls the function

    def current(self) -> Bearer | None:
        """Return what sends the token, None without one. Call the function if there is no token.

        One thread calls it, and the others wait for its token or its error. That error is
        raised as it is. Raises InvalidInput for a wrong token, and ReentrantCall if the
        function, or a signal handler that interrupted it, needs the token itself.
        """
        bearer, ask = self._bearer, self._ask
        if ask is None or (bearer is not None and not bearer.is_dropped):
            return bearer
        failure = self._failure
        with self._lock:
            if self._asking == threading.get_ident():
                raise ReentrantCall
            if self._bearer is not None and not self._bearer.is_dropped:
                return self._bearer
            if self._failure is not None and self._failure is not failure:
                raise copy_of(self._failure)  # of the thread that this one has waited for
            return self._renewed(ask)

    def drop(self, bearer: Bearer | None) -> bool:
        """Have another token used from now on, if there is a function to ask for it.

        Returns whether there is. For the same `bearer` the function is asked only once.
        """
        if self._ask is None or bearer is None:
            return False
        bearer.is_dropped = True
        return True

    def _renewed(self, ask: Callable[[], str]) -> Bearer:
        try:
            self._asking = threading.get_ident()
            self._bearer = Bearer(ask())
        except Exception as error:
            # A copy: the error itself holds the frames that it has passed.
            self._failure = copy_of(error)
            self._failure.__cause__ = None
            raise
        finally:
            self._asking = None
        return self._bearer
