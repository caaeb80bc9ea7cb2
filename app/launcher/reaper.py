"""Stops a launcher's children once the launcher is gone, even if it was killed with -9.

Reads lines `NAME PID SIGNAL` from standard input, one from each child as it starts; a later child
of the same name replaces the earlier one. The input ends when the launcher does. Then the reaper
stops every child that is still alive, the last one first, and kills it after a while. A launcher
that ends in order kills the reaper first.
"""

import os
import signal
import sys
import time

PATIENCE_SECONDS = 8.0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A process that has ended, and that nobody has waited for yet, counts as dead.
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # there is no /proc: the system is not Linux
        return True


def stop(pid: int, number: int) -> None:
    """Signal a process, wait until it ends, then kill what is left of its group."""
    until = time.monotonic() + PATIENCE_SECONDS
    try:
        os.kill(pid, number)
        while alive(pid) and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> None:
    # Somebody may signal all processes of the gateway at once. The reaper ends last.
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    children: dict[str, tuple[int, int]] = {}
    for line in sys.stdin:
        name, pid, number = line.split()
        children[name] = int(pid), int(number)
    for child, signal_number in reversed(children.values()):
        stop(child, signal_number)


if __name__ == "__main__":
    main()
