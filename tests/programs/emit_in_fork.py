"""Emits 3,000 events with one appender: 1,000 of them in a forked child: URL RUN_ID."""

import os
import warnings

from tests.programs.appenders import emit, open_appender

warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)

if __name__ == "__main__":
    run = open_appender()
    emit(run, *range(1000))
    child = os.fork()
    if child == 0:
        with run:
            emit(run, *range(1000, 2000))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
    emit(run, *range(2000, 3000))
