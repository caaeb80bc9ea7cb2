"""The commands that run and check the gateway: `serve` and `check`."""

import contextlib
import io
from collections.abc import Callable

import click

from .. import check as checking
from ..launcher import launcher
from .output.terminal import write

# Of a start that was refused.
REFUSED = 2


def _unless_refused(command: Callable[[], int]) -> int:
    try:
        return command()
    except checking.REFUSALS as error:
        checking.complain(str(error))
        return REFUSED


@click.command()
def serve() -> int:
    """Run the gateway. Without REDIS_URL it starts a Redis too."""
    return _unless_refused(launcher.serve)


@click.command()
def check() -> int:
    """Check the settings and Redis, and print the settings as JSON."""
    return _unless_refused(_check)


def _check() -> int:
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        status = checking.check()
    write(shown.getvalue())
    return status
