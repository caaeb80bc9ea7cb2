"""The event loop that connections and waiting tasks belong to."""

import asyncio
import os


class OwnLoop:
    """The one event loop in which an object is used.

    After that loop was closed, and in a forked child, another one may take its place.
    """

    def __init__(self, name: str):
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        # A forked child must not free a loop of its parent: that would change its selector.
        self._inherited: list[asyncio.AbstractEventLoop] = []

    def enter(self) -> bool:
        """Take the running loop for this object; return whether it takes another one's place.

        Raises RuntimeError if the object belongs to a loop that is still open, or if no loop
        runs.
        """
        loop, process = asyncio.get_running_loop(), os.getpid()
        former = self._loop
        if loop is former and process == self._process:
            return False
        if former is not None:
            if process != self._process:
                self._inherited.append(former)
            elif not former.is_closed():
                raise RuntimeError(
                    f"{self._name} belongs to another event loop, which is still open"
                )
        self._loop, self._process = loop, process
        return former is not None
