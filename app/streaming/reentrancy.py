"""Which threads are inside a call, so that a signal handler gets an error instead of a deadlock.

A signal handler runs on top of the code that it interrupted, and that code goes on only after
the handler returns. A call from the handler could wait for that code for ever.
"""

import os
import threading
from types import TracebackType

from .errors import ReentrantCall


class NotReentrant:
    """A context that a thread (a greenlet, where gevent has patched) can enter only once.

    A signal handler that raises can break off `__exit__` before it has done its work. The
    thread then counts as inside for ever. `enter` and `leave` are one step each, so a hot path,
    and any call that Ctrl-C may end, uses them instead:

        thread = one_call_per_thread.check()
        try:
            one_call_per_thread.enter(thread)
            ...
        finally:
            one_call_per_thread.leave(thread)
    """

    def __init__(self) -> None:
        self._inside: set[int] = set()
        # Methods of a set run no Python code, and a signal handler runs only between Python code.
        self.enter = self._inside.add
        self.leave = self._inside.discard
        os.register_at_fork(after_in_child=self._inside.clear)

    def check(self) -> int:
        """Return this thread's identifier, or raise ReentrantCall if it is inside a call."""
        thread = threading.get_ident()
        if thread in self._inside:
            raise ReentrantCall
        return thread

    def __enter__(self) -> None:
        self.enter(self.check())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave(threading.get_ident())


one_call_per_thread = NotReentrant()
"""Entered by every call that waits for Redis or for a gateway, in the whole process."""
