"""The options with which every client command reaches its gateway."""

import functools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..client import Client
from ..streaming.errors import InvalidInput, StoreUnavailable
from .output.failures import WaitingNotice

DEFAULT_URL = "http://127.0.0.1:8082"

# How long commands that move many events wait for a gateway that is away.
LONG_RETRY_SECONDS = 300.0

# A token in an argument would be seen by every user of the machine.
TOKEN_VARIABLE = "TAILRACE_TOKEN"


class Connection(NamedTuple):
    """Where the gateway is, the file of the token, and the CA bundle."""

    url: str
    token_file: str | None
    ca: str | None

    def client(self, retry_seconds: float = 30.0) -> Client:
        """Return a client of the gateway, and tell people while it waits for that.

        Raises UsageError if it cannot be made.
        """
        WaitingNotice(self.url).listen()
        token: str | Callable[[], str] | None = os.environ.get(TOKEN_VARIABLE) or None
        if self.token_file is not None:
            token = partial(_read_token, self.token_file)
        try:
            return Client(
                self.url, token=token, verify=self.ca or True, retry_seconds=retry_seconds
            )
        except InvalidInput as error:
            names = {"url": "--url", "token": TOKEN_VARIABLE, "verify": "--ca"}
            raise click.UsageError(f"{names.get(error.field)}: {error.message}") from None


def _read_token(path: str) -> str:
    """Return the token in a file. Raises StoreUnavailable while it cannot be read."""
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreUnavailable(f"cannot read the token file {path}: {error}") from None
    if not token:  # perhaps somebody is writing it
        raise StoreUnavailable(f"the token file {path} is empty")
    return token


def connects(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets them as its first argument, a Connection."""

    @click.option(
        "--url",
        envvar="TAILRACE_URL",
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        help="The gateway, with its path prefix if it has one.",
    )
    @click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False),
        envvar="TAILRACE_TOKEN_FILE",
        show_envvar=True,
        help="A file with the token, read again when the token expires. Without it, the token "
        "is in the variable TAILRACE_TOKEN.",
    )
    @click.option(
        "--ca",
        type=click.Path(exists=True),
        envvar="TAILRACE_CA",
        show_envvar=True,
        help="A CA bundle to verify the certificate of the gateway with.",
    )
    @functools.wraps(command)
    def with_connection(url: str, token_file: str | None, ca: str | None, **given: Any) -> Any:
        return command(Connection(url, token_file, ca), **given)

    return with_connection
