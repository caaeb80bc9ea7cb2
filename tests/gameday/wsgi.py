"""The gateway, one worker of which spins without end once the file SPIN_FILE exists."""

import os
from pathlib import Path

import gevent

from app import create_app

SPIN_FILE = Path(os.environ["SPIN_FILE"])


def spin_when_told() -> None:
    while True:
        gevent.sleep(0.2)
        try:
            SPIN_FILE.unlink()
        except FileNotFoundError:
            continue
        while True:  # as a defect would: no other greenlet runs any more
            pass


app = create_app()
gevent.spawn(spin_when_told)
