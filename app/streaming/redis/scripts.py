"""Lua scripts. Redis runs each call of one as a single atomic step."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from redis.exceptions import NoScriptError

from ..errors import StoreUnavailable, StreamingError
from .connection import Argument, Command, Reply, checked

# What is only read may be read again. ASKING stands before a read whose slot is on its way.
_READS = frozenset(
    [
        "ASKING",
        "EXISTS",
        "PING",
        "SCAN",
        "TTL",
        "XINFO",
        "XLEN",
        "XRANGE",
        "XREAD",
        "XREVRANGE",
        "ZCARD",
        "ZRANGE",
        "ZSCORE",
    ]
)

# Scripts by their digests and their sources, for those who see commands only.
_deriving: set[Argument] = set()
_reading: set[Argument] = set()


class Connection(Protocol):
    """What a script needs of a connection, or of a pool of them."""

    def call(self, *command: Argument) -> Reply: ...

    def call_all(self, *commands: Command) -> list[Reply]: ...

    def call_each(self, *commands: Command) -> list[Reply]: ...


class Script:
    """A script, called by its digest. Its source is sent only to a server that lacks it.

    The first arguments of a call are its keys, `keys` of them. Without `keys`, their number stands
    before them.

    Args:
        derives_keys: whether it knows the names of its other keys from the first one, and may be
            called without them.
        reads: whether it appends and changes nothing that anybody could miss, so that it may be
            run again when its reply was lost.
    """

    def __init__(
        self,
        connection: Connection,
        file: Path,
        keys: int | None = None,
        *,
        derives_keys: bool = False,
        reads: bool = False,
    ):
        self._connection = connection
        self._source = file.read_bytes()
        self._digest = hashlib.sha1(self._source, usedforsecurity=False).hexdigest()
        self._keys = () if keys is None else (keys,)
        if derives_keys:
            _deriving.update((self._source, self._digest))
        if reads:
            _reading.update((self._source, self._digest))

    def run(self, *keys_and_arguments: Argument) -> Reply:
        """Run the script and return its raw reply. Raises NotALog and StoreUnavailable."""
        call, arguments = self._connection.call, (*self._keys, *keys_and_arguments)
        try:
            return checked(call("EVALSHA", self._digest, *arguments))
        except NoScriptError:  # Redis has run nothing
            return checked(call("EVAL", self._source, *arguments))

    def command(self, *keys_and_arguments: Argument) -> Command:
        """Return the command that runs the script, to be sent together with others."""
        return "EVAL", self._source, *self._keys, *keys_and_arguments

    def run_each(self, calls: Sequence[Command]) -> list[Reply]:
        """Run the script once for each of some calls, all sent together.

        Returns the raw reply to each call, or the error that `run` would raise for it. A server
        that lacks the script may run the calls in another order. Raises StoreUnavailable if no
        call was answered, all for the same reason.
        """
        replies = self._call_each("EVALSHA", self._digest, calls)
        refused = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if refused:
            try:
                again = self._call_each("EVAL", self._source, [calls[at] for at in refused])
            except StoreUnavailable as error:  # the other calls have their replies
                again = [error] * len(refused)
            for at, reply in zip(refused, again, strict=True):
                replies[at] = reply
        return replies

    def _call_each(
        self, command: str, script: str | bytes, calls: Sequence[Command]
    ) -> list[Reply]:
        commands = [(command, script, *self._keys, *arguments) for arguments in calls]
        return [_reply_or_error(reply) for reply in self._connection.call_each(*commands)]


def derives_keys(command: Command) -> bool:
    """Return whether a command runs a script that may be called with its first key alone."""
    return command[0] in ("EVALSHA", "EVAL") and command[1] in _deriving


def reads(command: Command) -> bool:
    """Return whether a command only reads, so that it may be sent again if its reply was lost."""
    return command[0] in _READS or (command[0] in ("EVALSHA", "EVAL") and command[1] in _reading)


def _reply_or_error(reply: Reply) -> Reply:
    if type(reply) is list:
        return reply
    try:
        return checked(reply)
    except (NoScriptError, StreamingError) as error:
        return error
