"""The commands of the archive: `archive` and `restore`."""

import click

from ... import archiving
from ...settings import SettingsError
from ...streaming.errors import InvalidInput
from ..output.exit_status import REFUSED as FAILED
from ..output.failures import complain
from ..output.terminal import write

# A setting is wrong.
REFUSED = 2


@click.command()
@click.option("--once", is_flag=True, help="Archive what has ended, and exit.")
@click.option("--list", "lists", is_flag=True, help="List the archived runs, and exit.")
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), help="Answer GET /metrics on this port."
)
@click.option(
    "--metrics-host", default="127.0.0.1", show_default=True, help="The address for --metrics-port."
)
def archive(once: bool, lists: bool, metrics_port: int | None, metrics_host: str) -> int:
    """Archive the logs of runs that have ended to ARCHIVE_URL, until it is stopped."""
    if lists and (once or metrics_port):
        raise click.UsageError("--list stands alone")
    try:
        if lists:
            for line in archiving.archived_runs():
                write(line)
            return 0
        return archiving.archive_runs(
            once=once, metrics_port=metrics_port, metrics_host=metrics_host
        )
    except (SettingsError, InvalidInput) as error:
        complain(str(error))
        return REFUSED
    except OSError as error:
        raise click.UsageError(f"--metrics-port: {error.strerror or error}") from None


@click.command()
@click.argument("run_ids", nargs=-1, metavar="RUN…")
@click.option("--all", "everything", is_flag=True, help="All archived runs.")
def restore(run_ids: tuple[str, ...], everything: bool) -> int:
    """Write the logs of archived runs back to Redis."""
    if bool(run_ids) == everything:
        raise click.UsageError("name runs, or --all")
    status = 0
    try:
        for line, error in archiving.restored_runs(None if everything else run_ids):
            if error is None:
                write(f"{line}\n")
            else:
                complain(line)
                status = FAILED
    except SettingsError as error:
        complain(str(error))
        return REFUSED
    return status
