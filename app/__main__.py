"""The command `tailrace`, in a checkout `python -m app`: serve, check settings, make tokens."""

import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from . import __version__

# The gateway acts on these only once it runs. By default each would end the process.
LATER_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

USAGE = f"""usage: {"python -m app" if __package__ == "app" else "tailrace"} [serve | check | token]

  serve   run the gateway (the default)
  check   check the settings and Redis, and print the settings as JSON
  token   make a token that is signed with AUTH_SECRET; see token --help

Settings are environment variables, such as REDIS_URL, HOST and PORT."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    given = tuple(sys.argv[1:] if arguments is None else arguments)
    if given in (("-h",), ("--help",)):
        print(USAGE)
        return 0
    if given == ("--version",):
        print(f"tailrace {__version__}")
        return 0
    is_token = given[:1] == ("token",)
    if not is_token and given not in ((), ("serve",), ("check",)):
        print(USAGE, file=sys.stderr)
        return 2
    # Blocked before the imports, which take half a second. The launcher unblocks them.
    signal.pthread_sigmask(signal.SIG_BLOCK, LATER_SIGNALS)
    try:
        from .check import REFUSALS, check, complain
        from .launcher import serve
        from .token_command import token
    except ModuleNotFoundError as error:  # installed without the extra
        sys.exit(f"tailrace: the package {error.name} is missing; install Tailrace with [server]")
    command: Callable[[], int] = check if given == ("check",) else serve
    if is_token:
        command = partial(token, given[1:])
    try:
        return command()
    except REFUSALS as error:
        complain(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
