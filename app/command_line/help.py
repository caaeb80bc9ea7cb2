"""How help is laid out and written, and how usage errors are shown."""

import io

import click

from .output.terminal import printable, tell, write


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


_add_help = click.help_option("-h", "--help", callback=_show_help)


def with_help(command: click.Command) -> click.Command:
    """Give a command, once, the layout and the option of its help. Raises OutputError in use."""
    if command.context_class is not Context:
        command.context_class = Context
        command.params += _add_help(click.Command(None)).params
    return command


def show_usage_error(error: click.ClickException) -> None:
    """Print what is wrong with the arguments, which may hold anything, to standard error."""
    text = io.StringIO()
    error.show(text)
    for line in text.getvalue().splitlines():
        tell(printable(line))
