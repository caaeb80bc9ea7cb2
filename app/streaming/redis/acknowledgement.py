"""Acknowledgement by replicas: the WAIT behind the commands of a round trip, and its reply.

WAIT counts the replicas that have what its own connection has written last. Since Redis 7.2 a
command that writes nothing does not count. So whoever finds that something has been written
before, over another connection, must write something too before WAIT says anything of it.
"""

from collections import deque
from collections.abc import Mapping

from redis.exceptions import ResponseError

from ...metrics.catalog import REDIS_ERRORS
from ..errors import NotReplicated
from .connection import Reply, count_error, pack
from .server_warnings import online_replicas

# A reply comes so much later at most: less than clients wait for one.
WAIT_SECONDS = 1.0


class Unacknowledged:
    """The reply to a command that was carried out, and that too few replicas have acknowledged."""

    __slots__ = ("reason", "reply")

    def __init__(self, reply: Reply, reason: str):
        self.reply = reply
        self.reason = reason


class Acknowledgement:
    """Asks how many replicas have what a connection has written.

    Args:
        replicas: how many must have it.
        seconds: how long they may take, which must be less than the time-out of a command.
    """

    def __init__(self, replicas: int, seconds: float = WAIT_SECONDS):
        self._replicas = replicas
        self._seconds = seconds
        self.packed = pack(("WAIT", replicas, max(1, int(1000 * seconds))))

    def judge(self, replies: list[Reply], waited: Reply) -> str | None:
        """Put Unacknowledged in the place of replies if the reply to WAIT asks for it.

        Error replies stay: what was refused needs no replicas. Returns why they were not
        acknowledged, None if they were.
        """
        if all(isinstance(reply, ResponseError) for reply in replies):
            return None
        reason = self._reason(waited)
        if reason is not None:
            replies[:] = [
                reply if isinstance(reply, ResponseError) else Unacknowledged(reply, reason)
                for reply in replies
            ]
        return reason

    def _reason(self, waited: Reply) -> str | None:
        if isinstance(waited, ResponseError):
            count_error(waited)
            return f"the replicas cannot be asked, since Redis refused WAIT: {waited}"
        if waited >= self._replicas:
            return None
        REDIS_ERRORS.of("replicas").add()
        return f"only {waited} of {self._replicas} replicas have it after {self._seconds:g} s"


def acknowledged(reply: Reply) -> Reply:
    """Return a reply. Raise NotReplicated for one that says that something was written.

    A reply of 0 or None says that nothing was, so there is nothing to acknowledge.
    """
    if not isinstance(reply, Unacknowledged):
        return reply
    if reply.reply:
        raise NotReplicated(reply.reason)
    return reply.reply


class ReplicaWatch:
    """Whether enough replicas keep up with a server, from one look at it to the next."""

    def __init__(self, replicas: int):
        self._replicas = replicas
        # A replica says once a second how far it is. So it has a second or two.
        self._offsets: deque[int] = deque(maxlen=2)

    def check(self, fields: Mapping[str, str]) -> None:
        """Look at the section `replication` of INFO. Raises NotReplicated; nothing was stored.

        Call it about once a second. Without the section nobody knows, and nothing is raised.
        """
        if "master_repl_offset" not in fields:
            return
        now = int(fields["master_repl_offset"])
        due = min(self._offsets[0], now) if len(self._offsets) == 2 else 0
        self._offsets.append(now)
        have = sum(offset >= due for offset in online_replicas(fields))
        if have < self._replicas:
            raise NotReplicated(f"only {have} of {self._replicas} replicas keep up", stored=False)
