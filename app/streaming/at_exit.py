"""The exit of a process: waiting events are sent, and what could not be stored is printed."""

import atexit
import contextlib
import os
import sys
import threading
import weakref
from typing import Protocol

from .errors import ReentrantCall


class Flushable(Protocol):
    """An appender, as far as the exit knows it."""

    @property
    def name(self) -> str: ...

    @property
    def not_stored(self) -> int: ...

    @property
    def has_final_error(self) -> bool: ...

    def flush(self) -> None: ...

    def begin_in_child(self) -> None: ...


# All appenders, and those with an error that no call has raised, which must not be forgotten.
_all: weakref.WeakSet[Flushable] = weakref.WeakSet()
_with_error: set[Flushable] = set()
_has_finalizer = False

# Whether all was flushed, or nothing will flush. The main thread has ended when it runs the
# handlers of `atexit`, which then take no new handler.
_has_flushed = (
    threading.current_thread() is threading.main_thread() and not threading.main_thread().is_alive()
)


def add(appender: Flushable) -> None:
    """Have an appender flushed at the exit."""
    _all.add(appender)


def has_flushed() -> bool:
    """Return whether the exit has flushed all, so that nothing but `flush` sends the rest.

    Then there are still exit handlers that the program has registered before it imported this
    module, and threads that outlive the exit of a child of `multiprocessing`.
    """
    return _has_flushed


def keep_error_of(appender: Flushable) -> None:
    """Have the error of an appender printed at the exit, even if nobody holds the appender."""
    _with_error.add(appender)


def forget_error_of(appender: Flushable) -> None:
    """Have the error of an appender not printed: a call has raised it."""
    _with_error.discard(appender)


def flush(appender: Flushable) -> None:
    """Flush an appender. Print its error, if no call has raised it."""
    if appender.has_final_error and appender not in _with_error:
        return
    try:
        appender.flush()
    except ReentrantCall:
        return  # a signal handler that interrupted a call cannot wait
    except Exception as error:
        _print(appender, error)
    except KeyboardInterrupt as interrupt:
        _print(appender, interrupt)
        raise


def watch_exit_of_child() -> None:
    """Have `multiprocessing` flush at the exit of a child, which does not run `atexit`."""
    global _has_finalizer, _has_flushed
    multiprocessing = sys.modules.get("multiprocessing.util")
    if multiprocessing is None or _has_finalizer:
        return
    _has_finalizer = True
    if multiprocessing.is_exiting():
        _has_flushed = True
    else:
        multiprocessing.Finalize(None, _flush_all, exitpriority=0)


@atexit.register
def _flush_all() -> None:
    global _has_flushed
    _has_flushed = True
    with contextlib.ExitStack() as stack:  # which goes on after Ctrl-C
        for appender in _snapshot():
            stack.callback(flush, appender)


def _snapshot() -> list[Flushable]:
    while True:
        # A WeakSet cannot be read while another thread adds to it.
        with contextlib.suppress(RuntimeError):
            return [*_all]


def _print(appender: Flushable, error: BaseException) -> None:
    count = appender.not_stored
    events = "1 event" if count == 1 else f"{count} events"
    interrupted = not isinstance(error, Exception)
    unknown = interrupted or getattr(error, "stored", False) is None
    verb = "may not be" if unknown else "is not" if count == 1 else "are not"
    message = f": {error}" if str(error) else ""
    reason = " ".join(f"{type(error).__name__}{message}".split())
    if sys.stderr is not None:
        print(f"tailrace: {events} of {appender.name} {verb} stored: {reason}", file=sys.stderr)


def _begin_in_child() -> None:
    """Empty the appenders in a forked child: the parent sends what waits."""
    global _has_finalizer
    _has_finalizer = False
    _with_error.clear()
    for appender in _snapshot():
        appender.begin_in_child()


os.register_at_fork(after_in_child=_begin_in_child)
