"""Uses an appender while the interpreter exits: URL RUN_ID."""

import atexit

from tests.programs.appenders import emit, open_appender

if __name__ == "__main__":
    run = open_appender()

    @atexit.register
    def say_goodbye() -> None:
        with run:
            emit(run, "goodbye")
