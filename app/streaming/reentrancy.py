"""Which threads are inside a call, so that a signal handler gets an error instead of a deadlock.

A signal handler runs on top of the code that it interrupted, and that code goes on only after
the handler returns. A call from the handler could wait for that code for ever.
"""

import os
import sys
import threading
from types import FrameType

from .errors import ReentrantCall


class NotReentrant:
    """What a thread (a greenlet, where gevent has patched) can be inside only once.

    `enter` and `leave` are one step each, for calls that Ctrl-C may end anywhere:

        thread = one_call_per_thread.check()
        try:
            one_call_per_thread.enter(thread)
            ...
        finally:
            one_call_per_thread.leave(thread)

    An exception can still end a call just before it leaves. So `check` believes that a thread is
    inside only if such a call is among those that its thread is in the middle of.
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
            if _is_interrupted_call(sys._getframe(1).f_back):
                raise ReentrantCall
            self.leave(thread)
        return thread


def _is_interrupted_call(frame: FrameType | None) -> bool:
    """Return whether a frame, or one that it runs on top of, enters and leaves as above."""
    while frame is not None:
        if {"enter", "leave"} <= {*frame.f_code.co_names}:
            return True
        frame = frame.f_back
    return False


one_call_per_thread = NotReentrant()
"""Entered by every call that waits for Redis or for a gateway, in the whole process."""
