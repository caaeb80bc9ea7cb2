"""The scripts that Redis runs, each as one atomic step, from the `.lua` files beside this one."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

from ..errors import StoreUnavailable, StreamingError
from .connection import checked
from .shared_connection import SharedConnection


class Script:
    """A script that is called by its digest, and sent whole where the server is_missing it."""

    def __init__(self, connection: SharedConnection, name: str, keys: int):
        self._connection = connection
        self._source = Path(__file__).with_name(name).read_bytes()
        self._digest = hashlib.sha1(self._source, usedforsecurity=False).hexdigest()
        self._keys = keys

    def run(self, *keys_and_arguments: Any) -> Any:
        """What the script returns, in bytes; raises NotALog or StoreUnavailable."""
        call, arguments = self._connection.call, (self._keys, *keys_and_arguments)
        try:
            return checked(call("EVALSHA", self._digest, *arguments))
        except NoScriptError:  # so nothing was run
            return checked(call("EVAL", self._source, *arguments))

    def run_each(self, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """What it returns to each of some calls that are sent together; what `run` raises for
        one of them is a value here.

        Raises StoreUnavailable where the round trip came to nothing. A server that is_missing the
        script may run the calls in another order.
        """
        replies = self._call_each("EVALSHA", self._digest, calls)
        lacking = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if lacking:
            try:
                again = self._call_each("EVAL", self._source, [calls[at] for at in lacking])
            except StoreUnavailable as error:  # the others have their answers
                again = [error] * len(lacking)
            for at, reply in zip(lacking, again, strict=True):
                replies[at] = reply
        return replies

    def _call_each(
        self, command: str, script: str | bytes, calls: Sequence[Sequence[Any]]
    ) -> list[Any]:
        commands = [(command, script, self._keys, *arguments) for arguments in calls]
        return [_checked(reply) for reply in self._connection.call_all(*commands)]


def _checked(reply: Any) -> Any:
    if type(reply) is list:
        return reply
    try:
        return checked(reply)
    except (NoScriptError, StreamingError) as error:
        return error
