"""Signs of life in a body whose next line is long in coming: blank lines, which mean nothing.

Without them a proxy takes a producer that is silent for one that has gone.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

# nginx waits for 60 seconds.
SILENT_SECONDS = 15.0


def with_keepalive(lines: Iterable[bytes], send_blank_line: Callable[[], None]) -> Iterator[bytes]:
    """The lines, with blank ones sent by another thread while the next one is waited for.

    The thread ends before this does. Where it could not send, BrokenPipeError is raised.
    """
    sending, ended = threading.Lock(), threading.Event()
    broken: list[OSError] = []

    def keep_alive() -> None:
        while not broken and not ended.wait(SILENT_SECONDS):
            with sending:
                if ended.is_set():
                    return
                try:
                    send_blank_line()
                except OSError as error:
                    broken.append(error)

    thread = threading.Thread(target=keep_alive, name="signs-of-life", daemon=True)
    with contextlib.suppress(RuntimeError):  # none may be started while the interpreter exits
        thread.start()
    try:
        for line in lines:
            with sending:
                if broken:
                    break
                yield line
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()
    if broken:
        raise BrokenPipeError from broken[0]
