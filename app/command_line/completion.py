"""The command `completion`, and the completion of run ids."""

import contextlib
import threading

import click
from click.shell_completion import CompletionItem, get_completion_class

from ..streaming.errors import StreamingError
from .connection import DEFAULT_URL, Connection
from .output.terminal import write

# A shell waits for its completions.
COMPLETION_SECONDS = 1.0
MAX_COMPLETIONS = 100


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion of the command tailrace for a SHELL.

    It goes into the file that the shell reads when it starts.
    """
    found = get_completion_class(shell)
    assert found is not None
    root = ctx.find_root().command
    write(found(root, {}, "tailrace", "_TAILRACE_COMPLETE").source().rstrip() + "\n")


class RunParameter(click.ParamType):  # type: ignore[type-arg]
    """The id of a run. A shell completes it with the runs of the gateway."""

    name = "run"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the latest runs whose ids begin so; none if the gateway takes too long."""
        found: list[CompletionItem] = []

        def ask() -> None:
            given = ctx.params
            url = given.get("url") or DEFAULT_URL
            connection = Connection(url, given.get("token_file"), given.get("ca"))
            with contextlib.suppress(StreamingError, click.UsageError):
                runs = connection.client(0).runs(prefix=incomplete, limit=MAX_COMPLETIONS)
                found.extend(CompletionItem(run["run_id"], help=run["state"]) for run in runs)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(COMPLETION_SECONDS)
        return found.copy()
