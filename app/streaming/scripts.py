"""The scripts that Redis runs, each as one atomic step, from the `.lua` files beside this one."""

import hashlib
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

from app.streaming.connection import checked
from app.streaming.shared_connection import SharedConnection


class Script:
    """A script that is called by its digest, and sent whole where the server lacks it."""

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
