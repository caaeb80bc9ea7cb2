"""Emits in a child of multiprocessing while it exits: URL RUN_ID fork|spawn finalizer|thread.

A finalizer that was registered before the first event runs after the appender's own. A thread
goes on after all finalizers.
"""

import multiprocessing
import sys
import threading
from multiprocessing import util

from tests.programs.appenders import emit, open_appender

run = open_appender()


def emit_all() -> None:
    emit(run, *range(20))


def emit_after_exit_began() -> None:
    while not util.is_exiting():
        continue
    emit_all()


def work() -> None:
    if sys.argv[4] == "thread":
        threading.Thread(target=emit_after_exit_began).start()
    else:
        util.Finalize(None, emit_all, exitpriority=-1)


def work_after_an_event() -> None:
    work()
    emit(run, "first")


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[3])
    for target in (work, work_after_an_event):
        child = context.Process(target=target)
        child.start()
        child.join()
        assert child.exitcode == 0
