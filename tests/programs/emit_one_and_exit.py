"""Emits one event and exits without closing its appender: URL RUN_ID."""

from tests.programs.appenders import emit, open_appender

if __name__ == "__main__":
    run = open_appender()
    emit(run, 1)
