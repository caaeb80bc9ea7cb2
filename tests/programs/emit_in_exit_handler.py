"""Emits 20 events and an end in an exit handler, registered first: URL RUN_ID WAY.

WAY: `used` emits before the exit, `idle` also waits until the sender has ended, `first` emits
only in the handler, and `import` even imports the package there (redis itself cannot be).
"""

import atexit
import sys
import threading
from types import SimpleNamespace

program = SimpleNamespace(run=None)


@atexit.register
def finish() -> None:
    run = program.run or open_run()
    for number in range(20):
        run.emit("llm", "stream", number)
    run.emit("lifecycle", "completed")


def open_run():
    from tests.programs.appenders import open_appender

    return open_appender()


if __name__ == "__main__":
    way = sys.argv[3]
    if way == "import":
        import redis  # noqa: F401
    else:
        from app.streaming import appender
        from tests.servers import wait_until
    if way in ("used", "idle"):
        if way == "idle":
            appender.IDLE_SECONDS = 0.01
        program.run = open_run()
        program.run.emit("lifecycle", "started")
    if way == "idle":
        wait_until(
            lambda: len(sys._current_frames()) == threading.active_count() == 1,
            "the sender has ended",
        )
