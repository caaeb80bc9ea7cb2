"""Signal handlers in tests: a handler can run between any two bytecodes of a program."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

from app.streaming.reentrancy import NotReentrant


def run_inside(guard: NotReentrant, work: Callable[[], object]) -> None:
    """Do some work as a signal handler that has interrupted a call does it."""
    thread = guard.check()
    try:
        guard.enter(thread)
        work()
    finally:
        guard.leave(thread)


@contextmanager
def handled_at(
    step: int, handler: Callable[[], object], *modules: ModuleType
) -> Iterator[list[int]]:
    """Call a handler once, before the given bytecode of this thread's code in some modules.

    `step` counts bytecodes from 1. Yields a list that stays empty until the handler was called.
    """
    files, left, done = {module.__file__ for module in modules}, step, []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if left == 0 and not done:
            done.append(step)
            handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield done
    finally:
        sys.settrace(before)
