"""Emits one event, closes the appender, and prints the type of the error: URL RUN_ID."""

from app.streaming.errors import StreamingError
from tests.programs.appenders import emit, open_appender

if __name__ == "__main__":
    run = open_appender()
    emit(run, 1)
    try:
        run.close()
    except StreamingError as error:
        print(type(error).__name__)
