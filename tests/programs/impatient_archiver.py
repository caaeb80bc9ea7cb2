"""An archiver that looks all the time, with short claims, and that breaks off where it is told.

Its arguments are those of `archive`: `once` or nothing. The variable BREAK_AT says at which step of
a copy it sends itself the signal BREAK_SIGNAL; the steps of all copies count.
"""

import os
import signal
import sys

from app import archiving
from app.archive import parts
from app.archive.writing import archiver, copying, due, notes

archiver.GRACE_SECONDS = 0.05
archiver.LOOK_SECONDS = 0.05
archiver.RETRY_SECONDS = 0.1
archiver.MAX_PAUSE_SECONDS = 0.2
notes.CLAIM_SECONDS = archiver.CLAIM_SECONDS = 1
due.REST_SHARE = 0
parts.PART_BYTES = copying.PART_BYTES = 2000
copying.MIN_PART_BYTES = 500
copying.INITIAL_COUNT = 4
copying.next_count = lambda size, entries: 4

left = int(os.environ.get("BREAK_AT", "0"))
copy_log = copying.copy_log


def copy_until_break(reader, archive, run_id, keep_on, **options):
    def step():
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), int(os.environ["BREAK_SIGNAL"]))
        keep_on()

    return copy_log(reader, archive, run_id, step, **options)


archiver.copy_log = copy_until_break

if __name__ == "__main__":
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    once = "once" in sys.argv
    sys.exit(archiving.archive_runs(once=once, metrics_port=None, metrics_host="127.0.0.1"))
