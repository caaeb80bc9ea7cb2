"""Keeps a long request alive: sends blank lines, which mean nothing, while no line comes.

Without them a proxy takes a silent producer for one that has gone.
"""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable

from ..protocol import repeats


def with_keepalive(
    lines: Iterable[bytes], send_blank_line: Callable[[], None]
) -> Generator[bytes, None, None]:
    """Yield the lines; another thread calls `send_blank_line` while the next line is awaited.

    The thread ends before the generator does. Raises BrokenPipeError if the thread could not
    send.
    """
    sending, ended = threading.Lock(), threading.Event()
    broken: list[OSError] = []

    def keep_alive() -> None:
        while not broken and not ended.wait(repeats.SILENT_SECONDS):
            with sending:
                if ended.is_set():
                    return
                try:
                    send_blank_line()
                except OSError as error:
                    broken.append(error)

    thread = threading.Thread(target=keep_alive, name="keepalive", daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread can start while the interpreter exits
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
