"""A node's connection for questions, over which a test decides when the node answers."""

import threading

from app.streaming.errors import TimedOut


class Control:
    """Lets each PING wait for `fail` or `answer`."""

    def __init__(self):
        self.asked = self.closed = 0
        self._may_end, self._answers = threading.Semaphore(0), False

    def call(self, *command):
        assert command == ("PING",)
        self.asked += 1
        assert self._may_end.acquire(timeout=20)
        if not self._answers:
            raise TimedOut("no answer to PING", stored=None)
        return b"PONG"

    def close(self):
        self.closed += 1

    def fail(self):
        """Let one PING time out."""
        self._may_end.release()

    def answer(self):
        """Let the next PING be answered."""
        self._answers = True
        self._may_end.release()
