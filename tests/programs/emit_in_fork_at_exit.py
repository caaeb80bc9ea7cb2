"""Forks, and emits 20 events in an exit handler of the child, registered first: URL RUN_ID."""

import atexit
import os
import sys
import warnings
from types import SimpleNamespace

warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
program = SimpleNamespace(run=None)


@atexit.register
def finish() -> None:
    if program.run is not None:
        emit(program.run, *range(20))


if __name__ == "__main__":
    from tests.programs.appenders import emit, open_appender

    run = open_appender()
    emit(run, "parent")
    child = os.fork()
    if child == 0:
        program.run = run
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
