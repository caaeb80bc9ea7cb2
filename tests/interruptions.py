"""Signal handlers in tests: they run between any two steps of a program, wherever it is."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def handled_at(
    step: int, handler: Callable[[], object], *modules: ModuleType
) -> Iterator[list[int]]:
    """Run a handler before the so manieth bytecode of some modules that this thread runs.

    It gives a list that is not empty once that was so.
    """
    files, left, done = {module.__file__ for module in modules}, step, []

    def trace(frame, event, argument):
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
