"""Emits 3,000 events in a child of multiprocessing: URL RUN_ID fork|spawn|forkserver."""

import multiprocessing
import sys

from tests.programs.appenders import emit, open_appender

run = open_appender()


def work() -> None:
    emit(run, *range(3000))


if __name__ == "__main__":
    child = multiprocessing.get_context(sys.argv[3]).Process(target=work)
    child.start()
    child.join()
    sys.exit(child.exitcode)
