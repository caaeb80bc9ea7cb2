"""Runs the programs of tests/programs, each in another process."""

import subprocess
import sys

from tests.servers import ROOT


def program_command(name: str, *arguments: str, gevent: bool = False) -> list[str]:
    """Return the command of a program. With `gevent` everything is patched first."""
    patched = ["gevent.monkey", "--module"] if gevent else []
    return [sys.executable, "-W", "error", "-m", *patched, f"tests.programs.{name}", *arguments]


def run_program(
    name: str, *arguments: str, gevent: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it printed and its status."""
    return subprocess.run(
        program_command(name, *arguments, gevent=gevent),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )
