"""The silent nodes of a cluster: those that let a command time out, until they answer a PING."""

import logging
import threading
import time
import weakref
from collections.abc import Callable

from ...errors import StoreUnavailable
from ..server import Server

# A node is asked again so long after it did not answer.
PAUSE_SECONDS = 0.25

log = logging.getLogger("tailrace.cluster")


class NotSent(StoreUnavailable):
    """The node that has the key is silent, so nothing was sent to it."""


class SilentNodes:
    """The nodes that are silent: from a reply that timed out until they answer a PING.

    A node that stands still takes commands, and lets each of them time out. Callers that ask other
    nodes too would wait for it, and could not know what became of an append. So a command for a
    silent node fails at once, and is not sent.

    A thread asks each of them, over `Server.control`. It lives as long as the silence: without it,
    as after a fork, no node is silent.
    """

    def __init__(self, goes_on: Callable[[], None]):
        """`goes_on` is called while a node is silent: others may have its slots by now."""
        self._goes_on = goes_on
        self._silences: dict[Server, _Silence] = {}

    def error_of(self, server: Server) -> NotSent | None:
        """Return the error of what is for a node if that is silent."""
        silence = self._silences.get(server)
        if silence is None or not silence.is_alive():
            return None
        return NotSent(
            f"nothing was sent to {server.name}, which has stopped answering: {silence.reason}",
            stored=False,
        )

    def add(self, server: Server, error: StoreUnavailable) -> None:
        """Take a node for silent from now on, after a reply of it timed out."""
        if self.error_of(server) is not None or server.availability.closed:
            return
        # Of two threads that come here at once, the latter's silence is the one that counts.
        silence = self._silences[server] = _Silence(self, server, str(error))
        try:
            silence.start()
        except RuntimeError:  # no more threads: then everybody waits for the node
            self._silences.pop(server, None)
            return
        log.warning("%s is silent: %s", server.name, error)

    def _look(self, silence: "_Silence") -> bool:
        """Ask a node; return whether its silence goes on."""
        server = silence.server
        if self._silences.get(server) is not silence:
            return False
        try:
            server.control.call("PING")
        except StoreUnavailable as error:
            silence.reason = str(error)
            answers = False
        else:
            answers = True
        if answers or server.availability.closed:
            self._silences.pop(server, None)
        if server.availability.closed:  # it has left the cluster, or is a replica now
            server.control.close()
            return False
        if answers:
            server.availability.interrupted()  # producers could not write until now
            log.info("%s answers again", server.name)
        else:
            self._goes_on()
        return not answers


class _Silence(threading.Thread):
    """A thread that lives while a node is silent.

    Attributes:
        reason: why the node did not answer when it was last asked.
    """

    def __init__(self, nodes: SilentNodes, server: Server, reason: str):
        super().__init__(name="tailrace-silent", daemon=True)
        self.server = server
        self.reason = reason
        self._nodes = weakref.ref(nodes)

    def run(self) -> None:
        """Ask until the node answers, or nothing else refers to the cluster."""
        while (nodes := self._nodes()) is not None and nodes._look(self):
            del nodes
            time.sleep(PAUSE_SECONDS)
