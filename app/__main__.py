"""The command `tailrace`, in a checkout `python -m app`: blocks signals, then runs it."""

import signal
import sys
from collections.abc import Sequence

# The gateway acts on these only once it runs. By default each would end the process.
LATER_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    # Blocked before the imports, which take half a second for a gateway. The launcher unblocks
    # them; for the other commands, the command line does.
    signal.pthread_sigmask(signal.SIG_BLOCK, LATER_SIGNALS)
    from .command_line import run

    return run(arguments, later_signals=LATER_SIGNALS)


if __name__ == "__main__":
    sys.exit(main())
