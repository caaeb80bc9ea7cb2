"""Emits 3,000 events and exits without closing its appender: URL RUN_ID normally|exit|error."""

import sys

from tests.programs.appenders import emit, open_appender

if __name__ == "__main__":
    run = open_appender()
    emit(run, *range(3000))
    if sys.argv[3] == "exit":
        sys.exit(3)
    if sys.argv[3] == "error":
        raise ZeroDivisionError
