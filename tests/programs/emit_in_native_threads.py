"""Emits and flushes in native threads of a process that gevent has patched: URL RUN_ID MODULE.

MODULE is what gevent leaves as it is: `thread`, `queue` or `none`.
"""

import sys

from gevent import monkey

UNPATCHED = sys.argv[3]
monkey.patch_all(**({} if UNPATCHED == "none" else {UNPATCHED: False}))

import gevent  # noqa: E402

from tests.programs.appenders import open_appender  # noqa: E402

run = open_appender()


def emit_and_flush(number: int) -> int:
    run.emit("llm", "stream", number)
    run.flush()
    return run.stored


if __name__ == "__main__":
    run.emit("llm", "stream", 0)
    run.flush()
    if UNPATCHED != "thread":  # else the sender is a native thread already
        native = gevent.get_hub().threadpool
        for number in (1, 2, 3):
            assert native.apply(emit_and_flush, (number,)) == number + 1
    run.close()
    print(run.stored)
