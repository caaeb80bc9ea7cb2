"""Emits one event, drops the appender, and exits after the sender has ended: URL RUN_ID."""

import gc
import sys
import threading

from app.streaming import appender
from tests.programs.appenders import emit, open_appender
from tests.servers import wait_until

if __name__ == "__main__":
    appender.IDLE_SECONDS = 0.01
    emit(open_appender(), 1)
    wait_until(lambda: len(sys._current_frames()) == threading.active_count() == 1, "it has ended")
    gc.collect()
