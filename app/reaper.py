"""Ends a launcher's children once the launcher is gone, even if it was killed with -9.

Reads lines, `NAME PID SIGNAL`, one by each child as it starts; a later child of a name takes
the place of the former. At their end, which is the launcher's, it stops what is still there,
the last first, and insists after a while. A launcher that ends in order kills it first.
"""

import os
import signal
import sys
import time

PATIENCE_SECONDS = 8.0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # One that has ended and that nobody has waited for yet is dead all the same.
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # no /proc here: not Linux
        return True


def stop(pid: int, number: int) -> None:
    """Signal a process, wait for its end, and then kill what is left of its group."""
    until = time.monotonic() + PATIENCE_SECONDS
    try:
        os.kill(pid, number)
        while alive(pid) and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> None:
    children: dict[str, tuple[int, int]] = {}
    for line in sys.stdin:
        name, pid, number = line.split()
        children[name] = int(pid), int(number)
    for pid, number in reversed(children.values()):
        stop(pid, number)


if __name__ == "__main__":
    main()
