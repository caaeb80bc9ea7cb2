"""The command `tailrace`, in a checkout `python -m app`: blocks signals, then runs it."""

import signal
import sys
from collections.abc import Sequence

# The gateway acts on these only once it runs. By default each would end the process.
LATER_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

# The exit status after Ctrl-C.
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    # Blocked before the imports, which take half a second for a gateway. The launcher unblocks
    # them; for the other commands, the command line does.
    signal.pthread_sigmask(signal.SIG_BLOCK, LATER_SIGNALS)
    try:
        from .command_line import run

        return run(arguments, later_signals=LATER_SIGNALS)
    except KeyboardInterrupt:  # before click takes care of it
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
