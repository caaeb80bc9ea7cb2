"""Emits 3 events each to 2 runs and exits without closing its appenders: URL RUN_ID."""

import sys

from tests.programs.appenders import emit, open_appender

if __name__ == "__main__":
    runs = []
    for run_id in (sys.argv[2], f"{sys.argv[2]}-too"):
        sys.argv[2] = run_id
        runs.append(open_appender())
        emit(runs[-1], 1, 2, 3)
