"""The token of an AsyncClient, asked for anew when the gateway no longer accepts it."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from ..protocol.bearer import Bearer
from ..streaming.errors import ReentrantCall, copy_of

Token = str | Callable[[], str] | Callable[[], Awaitable[str]]


class AsyncCredentials:
    """A token, or a function that returns one. All tasks share what it returned."""

    def __init__(self, token: Token | None):
        """Raises InvalidInput for a wrong token."""
        self._ask = token if callable(token) else None
        self._bearer = None if token is None or callable(token) else Bearer(token)
        self._failure: Exception | None = None
        self._is_asking = ContextVar("is_asking", default=False)  # also in tasks of the function
        self.begin()

    def begin(self) -> None:
        """Begin anew in another event loop."""
        self._lock = asyncio.Lock()

    async def current(self) -> Bearer | None:
        """Return what sends the token, None without one. Call the function if there is no token.

        One task calls it, and the others wait for its token or its error. If that task is
        cancelled, the next one calls it. That error is raised as it is. Raises InvalidInput for
        a wrong token, and ReentrantCall if the function needs the token itself.
        """
        bearer, ask = self._bearer, self._ask
        if ask is None or (bearer is not None and not bearer.is_dropped):
            return bearer
        if self._is_asking.get():
            raise ReentrantCall
        failure = self._failure
        async with self._lock:
            if self._bearer is not None and not self._bearer.is_dropped:
                return self._bearer
            if self._failure is not None and self._failure is not failure:
                raise copy_of(self._failure)  # of the task that this one has waited for
            return await self._renewed(ask)

    def drop(self, bearer: Bearer | None) -> bool:
        """Have another token used from now on, if there is a function to ask for it.

        Returns whether there is. For the same `bearer` the function is asked only once.
        """
        if self._ask is None or bearer is None:
            return False
        bearer.is_dropped = True
        return True

    async def _renewed(self, ask: Callable[[], str] | Callable[[], Awaitable[str]]) -> Bearer:
        before = self._is_asking.set(True)
        try:
            token = ask()
            self._bearer = Bearer(await token if inspect.isawaitable(token) else token)
        except Exception as error:
            # A copy: the error itself holds the frames that it has passed.
            self._failure = copy_of(error)
            self._failure.__cause__ = None
            raise
        finally:
            self._is_asking.reset(before)
        return self._bearer
