"""The scripts that Redis runs, each as one atomic step, from the `.lua` files beside this one."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

from app.streaming.connection import checked
from app.streaming.shared_connection import SharedConnection


class Script:
    """A script that is called by its digest, and sent whole where the server lacks it."""

    def __init__(self, name: str, keys: int):
        self._path = Path(__file__).with_name(name)
        self._keys = keys

    @cached_property
    def _source(self) -> bytes:
        return self._path.read_bytes()

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha1(self._source, usedforsecurity=False).hexdigest()

    def run(self, connection: SharedConnection, *keys_and_arguments: Any) -> Any:
        """What the script returns, in bytes; raises NotALog or StoreUnavailable."""
        try:
            return checked(
                connection.call("EVALSHA", self._digest, self._keys, *keys_and_arguments)
            )
        except NoScriptError:  # so nothing was run
            return checked(connection.call("EVAL", self._source, self._keys, *keys_and_arguments))


APPEND = Script("append.lua", keys=3)
LOSE = Script("lose.lua", keys=3)
