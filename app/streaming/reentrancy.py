"""Which threads are inside a call, so that a signal handler gets an error instead of a deadlock.

A signal handler runs on top of the code that it interrupted, and that code goes on only after
the handler returns. A call from the handler could wait for that code for ever.
"""

import os
import threading
from types import TracebackType

from .errors import ReentrantCall


class NotReentrant:
    """A context that a thread (a greenlet, where gevent has patched) can enter only once."""

    def __init__(self) -> None:
        self._inside: set[int] = set()
        os.register_at_fork(after_in_child=self._inside.clear)

    def check(self) -> None:
        """Raise ReentrantCall if this thread is inside a call already."""
        if threading.get_ident() in self._inside:
            raise ReentrantCall

    def __enter__(self) -> None:
        me = threading.get_ident()
        if me in self._inside:
            raise ReentrantCall
        self._inside.add(me)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inside.discard(threading.get_ident())


one_call_per_thread = NotReentrant()
"""Entered by every call that waits for Redis or for a gateway, in the whole process."""
