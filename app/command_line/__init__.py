"""The command line: a click group whose commands are loaded when they are used.

So a client command needs only the base install, and starts without Flask, gevent and redis.
"""

import importlib
import signal
import sys
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from .. import __version__
from ..streaming.errors import StreamingError
from .help import HELP_OPTIONS, show_usage_error, with_help
from .output.exit_status import INTERRUPTED, OUTPUT_CLOSED, SOFTWARE, USAGE, status_of
from .output.failures import complain, describe, show_traceback
from .output.terminal import OutputError, give_up, write

PROGRAM = "python -m app" if __package__.startswith("app.") else "tailrace"
COMPLETION_VARIABLE = "_TAILRACE_COMPLETE"


class Entry(NamedTuple):
    """Where a command is, what the list of commands says of it, and the extras that it needs."""

    module: str
    attribute: str
    help: str
    extras: str = ""

    @property
    def is_server(self) -> bool:
        """Whether signals wait until the command itself handles them."""
        return self.extras == "server"


COMMANDS = {
    "follow": Entry("follow", "follow", "show the events of runs, and go on live"),
    "append": Entry("append", "append", "append an event"),
    "pipe": Entry("pipe", "pipe", "append each line of the input as an event"),
    "request": Entry("append", "request", "request something of a run's producer"),
    "runs": Entry("runs", "runs", "list the runs, or watch them"),
    "export": Entry("exporting", "export", "write the events of runs as lines of JSON"),
    "import": Entry("importing", "import_events", "append the events of an export"),
    "completion": Entry("completion", "completion", "print the completion of a shell"),
    "serve": Entry("server_commands", "serve", "run the gateway (the default)", "server"),
    "check": Entry("server_commands", "check", "check the settings and Redis", "server"),
    "token": Entry(
        "operating.token_command", "token", "make a token, signed with AUTH_SECRET", "server"
    ),
    "capacity": Entry(
        "operating.capacity_command", "capacity", "say how many workers and shards a load needs"
    ),
    "archive": Entry(
        "operating.archive_commands", "archive", "archive runs that have ended", "server,archive"
    ),
    "restore": Entry(
        "operating.archive_commands", "restore", "restore archived runs", "server,archive"
    ),
}


class LazyGroup(click.Group):
    """A group that imports the module of a command when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None for an unknown name. Exits if its extra is not installed."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        if not entry.is_server:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ctx.obj or ())
        try:
            module = importlib.import_module(f".{entry.module}", __package__)
        except ModuleNotFoundError as error:
            if not entry.extras:
                raise
            if ctx.resilient_parsing:  # a shell asks for completions
                return click.Command(cmd_name)
            sys.exit(
                f"tailrace: the package {error.name} is missing; "
                f"install Tailrace with [{entry.extras}]"
            )
        return with_help(getattr(module, entry.attribute))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Raises OutputError if a pipe breaks: click would exit with 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise OutputError(OUTPUT_CLOSED) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command without loading any, or an option."""
        names = [
            CompletionItem(name, help=entry.help)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        write(f"tailrace {__version__}\n")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": HELP_OPTIONS, "max_content_width": 100},
    epilog="Without a command it serves. Settings of the gateway are environment variables, such "
    "as REDIS_URL, HOST and PORT. The other commands use TAILRACE_URL and TAILRACE_TOKEN.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> Any:
    """Durable, resumable event streams for runs, over HTTP."""
    if ctx.invoked_subcommand is None:
        serve = LazyGroup.get_command(cli, ctx, "serve")
        return ctx.invoke(serve) if serve is not None else None
    return None


with_help(cli)


def run(
    arguments: Sequence[str] | None = None, *, later_signals: Collection[signal.Signals] = ()
) -> int:
    """Run a command, print what it could not do, and return its exit status.

    `later_signals` are blocked; only the commands of the server leave them so.
    """
    try:
        status = cli.main(
            arguments,
            prog_name=PROGRAM,
            complete_var=COMPLETION_VARIABLE,
            standalone_mode=False,
            obj=later_signals,
        )
    except click.ClickException as error:
        show_usage_error(error)
        return USAGE
    except click.Abort:
        return INTERRUPTED
    except OutputError as error:
        give_up(sys.stdout)
        if error.message:
            complain(error.message)
        return error.status
    except StreamingError as error:
        complain(describe(error))
        return status_of(error)
    except Exception:  # the interpreter would exit with 1, which says that the run has failed
        show_traceback()
        return SOFTWARE
    return status if isinstance(status, int) else 0
