"""Readiness: whether a server can hold logs, what it allows, and what may lose events there."""

import math
import re
import time
from pathlib import Path
from types import MappingProxyType

from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
)

from ..errors import NotALog, ReadOnlyServer, StoreUnavailable, UnsupportedServer
from ..log.redis_keys import log_key, redis_keys
from ..redis.connection import Command, Reply, checked
from ..redis.server import PING, TOO_OLD, Server, is_unknown_script
from ..redis.server_warnings import SECTIONS, ServerWarning, parse_info, warnings_of

HERE = Path(__file__).parent

CLUSTER = "Redis is in cluster mode: name its nodes in REDIS_URL as redis+cluster://host:port,…"

READ_ONLY = "Redis is a read-only replica: name the master in REDIS_URL, or promote this server"

MIN_SECONDS_BETWEEN_TRIES = 1.0

# Warnings come and go within this time after a setting of the server has changed.
SECONDS_BETWEEN_WARNINGS = 15.0

# No run can have these ids. The logs are in different slots of a cluster.
_PROBE, _OTHER_PROBE = "~probe", "~other-probe"

_NO_SCRIPT = "0" * 40  # no source has this digest

_REFUSED_ID = "0-0"  # no entry can have it

# How servers refuse a command to a user. Redis 7.0 names no ACL if a script calls it.
_FORBIDDEN = re.compile(r"^NOPERM|ACL failure|user executing the script can't")
_ABOUT_KEYS = re.compile(r"access (a|the|(at least )?one) .*key", re.IGNORECASE)

# What only a cluster needs of a node. ASKING has the node serve the command behind it, so that must
# be one without a key.
_NEEDED_OF_A_NODE: dict[str, Command] = {
    "CLIENT TRACKING": ("CLIENT", "TRACKING", "OFF"),
    "CLIENT ID": ("CLIENT", "ID"),
    "ASKING": ("ASKING",),
    "PING": ("PING",),
}

_OF_A_CLUSTER = (AskError, ClusterCrossSlotError, ClusterDownError, MovedError)


class Readiness:
    """Asks a server over a connection that nothing else uses, so that nothing holds it up."""

    shards, silent = (), MappingProxyType[str, str]({})  # nothing to tell of a single server

    def __init__(self, server: Server, *probes: str, in_cluster: bool = False):
        """`probes` are ids that no run can have; in a cluster, one whose log is on this node."""
        self._server = server
        self._shared = server.control
        self._ack_replicas = server.ack_replicas
        self._probes = probes or (_PROBE, _OTHER_PROBE)
        self._in_cluster = in_cluster
        self._source = (HERE / "ready.lua").read_bytes()
        self._tried_at = -math.inf
        self._warnings: list[ServerWarning] = []
        self._asked_at = -math.inf

    def ping(self) -> None:
        """Raise StoreUnavailable unless Redis responds and accepts writes."""
        self._check("EVAL", self._shared.call(*PING))
        if self._in_cluster:
            self._server.ping()

    def check(self, *streams: str) -> None:
        """Try out all that Tailrace needs. The server keeps nothing of it.

        `streams` are keys that are no run's, to which the gateway appends too.

        Within a second after that it only pings: anybody may ask for readiness, and each try is
        written to the append-only file. Raises UnsupportedServer, which names what is missing,
        and StoreUnavailable.
        """
        if time.monotonic() < self._tried_at + MIN_SECONDS_BETWEEN_TRIES:
            self.ping()
            return
        logs = [log_key(each) for each in self._probes]
        needed = _NEEDED_OF_A_NODE if self._in_cluster else {}
        pinged, read, known, tried, *others = replies = self._shared.call_all(
            PING,
            ("XREAD", "STREAMS", *logs, *("0" for _ in logs)),  # as the readers do
            ("EVALSHA", _NO_SCRIPT, 0),
            ("EVAL", self._source, 3, *redis_keys(self._probes[0])),
            *needed.values(),
            *(("XADD", key, _REFUSED_ID, "a", "b") for key in streams),
        )
        if not self._in_cluster and any(isinstance(each, _OF_A_CLUSTER) for each in replies):
            raise UnsupportedServer(CLUSTER)
        self._check("EVAL", pinged)
        self._check("XREAD", read)
        if not isinstance(known, NoScriptError):
            self._check("EVALSHA", known)
        self._check("EVAL", tried)
        for command, reply in zip(needed, others, strict=False):
            self._check(command, reply)
        for key, reply in zip(streams, others[len(needed) :], strict=True):
            if isinstance(reply, NoPermissionError):
                raise UnsupportedServer(f"Redis forbids the key {key} to this user")
        if tried:
            command, reason = (each.decode() for each in tried)
            if command == "too old":
                raise UnsupportedServer(TOO_OLD)
            _check_reason(command, reason)
            raise StoreUnavailable(f"Redis refused {command}: {reason}")
        if self._ack_replicas:
            self._check("WAIT", self._shared.call("WAIT", 0, 1))  # no replica is waited for
        self._tried_at = time.monotonic()

    def warnings(self) -> list[ServerWarning]:
        """Return which settings of the server may lose events.

        They are asked for at most every SECONDS_BETWEEN_WARNINGS. A server that does not allow
        INFO has none. Raises StoreUnavailable.
        """
        now = time.monotonic()
        if now >= self._asked_at + SECONDS_BETWEEN_WARNINGS:
            reply = self._shared.call("INFO", *SECTIONS)
            fields = parse_info(reply) if isinstance(reply, bytes) else {}
            self._warnings = warnings_of(fields, self._ack_replicas)
            self._asked_at = now
        return self._warnings

    def _check(self, command: str, reply: Reply) -> None:
        if is_unknown_script(reply):
            return
        if isinstance(reply, ReadOnlyError):
            raise ReadOnlyServer(READ_ONLY)
        if isinstance(reply, Exception):
            _check_reason(command, f"{'NOPERM ' * isinstance(reply, NoPermissionError)}{reply}")
        try:
            checked(reply)
        except NotALog as error:  # another program has such a key
            raise StoreUnavailable(str(error)) from None


def _check_reason(command: str, reason: str) -> None:
    """Raise UnsupportedServer if the reason of a refusal is one that lasts."""
    if _FORBIDDEN.search(reason):
        about = "keys like run:* and {run:*" if _ABOUT_KEYS.search(reason) else command
        raise UnsupportedServer(f"Redis forbids {about} to this user")
    if "unknown" in reason.lower() and "command" in reason:
        raise UnsupportedServer(f"Redis has no {command}")
