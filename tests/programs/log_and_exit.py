"""Logs into a run until its end, with all loggers of the process: URL RUN_ID WAY."""

import logging
import signal
import sys
import threading

from app.client import Client
from app.logging import RunHandler

if __name__ == "__main__":
    url, run_id, way = sys.argv[1:]
    handler = RunHandler(run_id, Client(url, retry_seconds=0 if way == "no gateway" else 30))
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)  # urllib3 logs what the handler sends
    root.addHandler(handler)
    for number in range(200):
        root.info("%d", number)
        if way == "flush" and number % 50 == 0:
            handler.flush()
    if way == "signal":
        signal.signal(signal.SIGALRM, lambda *_: root.warning("signal"))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for number in range(200, 2000):
            root.info("%d", number)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if way == "threads":
        threads = [
            threading.Thread(target=lambda: [root.info("t") for _ in range(100)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
