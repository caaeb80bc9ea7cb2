"""How help is laid out and written, and how usage errors are shown."""

import io

import click

from .output.terminal import printable, tell, write

HELP_OPTIONS = ["-h", "--help"]


class Formatter(click.HelpFormatter):
    """Writes `usage:` in lower case."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the line of the usage."""
        super().write_usage(prog, args, "usage: ")


class Context(click.Context):
    """The context of every command here."""

    formatter_class = Formatter


def _show_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        write(ctx.get_help() + "\n")
        ctx.exit()


def with_help(command: click.Command) -> click.Command:
    """Give a command the layout of its help, and an option that raises OutputError."""
    command.context_class = Context
    context = Context(command, help_option_names=HELP_OPTIONS)
    option = command.get_help_option(context)  # the command keeps it
    assert option is not None
    option.callback = _show_help
    return command


def show_usage_error(error: click.ClickException) -> None:
    """Print what is wrong with the arguments, which may hold anything, to standard error."""
    text = io.StringIO()
    error.show(text)
    for line in text.getvalue().splitlines():
        tell(printable(line))
