"""Readiness: whether a server can hold logs, and allows what appends and readers need."""

from pathlib import Path

from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
)

from ..errors import StoreUnavailable, UnsupportedServer
from ..redis.connection import Reply, checked
from ..redis.shared_connection import SharedConnection
from .redis_keys import log_key, redis_keys

HERE = Path(__file__).parent

TOO_OLD = "the server is too old: Redis 7.0 or newer, or Valkey, is needed"
CLUSTER = "Redis is in cluster mode, which Tailrace does not support"

# No run can have these ids. The logs are in different slots of a cluster.
_PROBE, _OTHER_PROBE = "~probe", "~other-probe"

_NO_SCRIPT = "0" * 40  # no source has this digest

_OF_A_CLUSTER = (AskError, ClusterCrossSlotError, ClusterDownError, MovedError)


class Readiness:
    """Asks a server over a connection that nothing else uses, so that nothing holds it up."""

    def __init__(self, shared: SharedConnection):
        self._shared = shared
        self._source = (HERE / "ready.lua").read_bytes()

    def ping(self) -> None:
        """Raise StoreUnavailable unless Redis responds and accepts writes.

        The script writes nothing. But its first line declares that it may, so a full server or
        a replica refuses to run it.
        """
        reply = self._shared.call("EVAL", "#!lua\nreturn 1", 0)
        if "error loading code" not in str(reply):  # fakeredis knows no such line
            checked(reply)

    def check(self) -> None:
        """Try out all that Tailrace needs. The server keeps nothing of it.

        Raises UnsupportedServer, which names what is missing, and StoreUnavailable.
        """
        logs = log_key(_PROBE), log_key(_OTHER_PROBE)
        read, known, tried = self._shared.call_all(
            ("XREAD", "STREAMS", *logs, "0", "0"),  # two logs at once, as the readers do
            ("EVALSHA", _NO_SCRIPT, 0),
            ("EVAL", self._source, 3, *redis_keys(_PROBE)),
        )
        if not isinstance(known, NoScriptError):
            _check("EVALSHA", known)
        _check("XREAD", read)
        _check("EVAL", tried)
        if tried:
            command, reason = (each.decode() for each in tried)
            if command == "too old":
                raise UnsupportedServer(TOO_OLD)
            if "ACL failure" in reason or reason.startswith("NOPERM"):
                raise UnsupportedServer(f"Redis forbids {command} to this user")
            raise StoreUnavailable(f"Redis refused {command}: {reason}")


def _check(command: str, reply: Reply) -> None:
    if isinstance(reply, _OF_A_CLUSTER):
        raise UnsupportedServer(CLUSTER)
    if isinstance(reply, NoPermissionError):
        about = "keys like run:* and {run:*" if "key" in str(reply) else command
        raise UnsupportedServer(f"Redis forbids {about} to this user")
    checked(reply)
