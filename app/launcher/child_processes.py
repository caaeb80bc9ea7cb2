"""Child processes that end with this process, even if it is killed with -9 (see reaper.py)."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class ChildProcesses:
    """The children of this process, and a reaper that stops them if this process is killed."""

    def __init__(self) -> None:
        # The reaper reads its lines from this pipe, and sees by its end that this process is gone.
        read_end, self._to_reaper = os.pipe()
        self._reaper = Popen(
            [sys.executable, "-S", Path(__file__).with_name("reaper.py")],
            stdin=read_end,
            start_new_session=True,
        )
        os.close(read_end)
        self._children: list[Popen[bytes]] = []

    def spawn(
        self,
        name: str,
        stop_signal: signal.Signals,
        command: Sequence[str],
        *,
        blocked: Iterable[signal.Signals] = (),
        **options: Any,
    ) -> "Popen[bytes]":
        """Start a child that the reaper stops with `stop_signal`, and then kills.

        The child begins with the signals in `blocked` blocked, and all others unblocked.

        The child announces itself to the reaper before it becomes another program, so there is
        no moment at which it runs and the reaper does not know it. It has its own session: a
        Ctrl-C in the terminal must reach gunicorn once, and Redis only after gunicorn has ended.
        """

        def announce() -> None:
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # the reaper may be gone
            with contextlib.suppress(BrokenPipeError):
                os.write(to_reaper, f"{name} {os.getpid()} {stop_signal.value}\n".encode())
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

        to_reaper = self._to_reaper
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            child = Popen(command, start_new_session=True, preexec_fn=announce, **options)
            self._children.append(child)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return child

    def dismiss_reaper(self) -> None:
        """Kill the reaper, once all children have ended.

        A child may still run if a stop interrupted its start; it is killed too.
        """
        for child in self._children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._reaper.kill()
        self._reaper.wait()
        os.close(self._to_reaper)
