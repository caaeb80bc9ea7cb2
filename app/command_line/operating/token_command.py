"""The command `token`. It alone signs tokens, so `serve` and `check` need not load what does."""

import re
import uuid
from collections.abc import Callable
from typing import Any

import click

from ...auth.grants import ACTIONS
from ...auth.keys import secret_keys
from ...auth.tokens import make_token
from ...settings import Settings, SettingsError
from ..output.failures import complain
from ..output.terminal import write

# A setting is wrong.
REFUSED = 2

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class TimeParameter(click.ParamType):  # type: ignore[type-arg]
    """A number and s, m, h or d, such as 15m; becomes seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds. Fails for anything else."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", value)
        if match is None:
            self.fail("must be a number and s, m, h or d, such as 15m", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


def _grants(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each action."""
    for action in reversed(ACTIONS):
        add = click.option(
            f"--{action}",
            multiple=True,
            metavar="PATTERN",
            help="A run id, a prefix and one *, or *; may be repeated.",
        )
        command = add(command)
    return command


@click.command()
@_grants
@click.option(
    "--ttl", type=TimeParameter(), default="1h", show_default=True, help="Such as 90s, 15m, 7d."
)
@click.option("--sub", help="The subject: whose the token is.")
@click.option("--jti", help="Its id, to revoke it by; by default a random one.")
def token(ttl: int, sub: str | None, jti: str | None, **patterns: tuple[str, ...]) -> int:
    """Make a token that is signed with AUTH_SECRET."""
    grants: dict[str, list[str]] = {
        action: list(patterns[action]) for action in ACTIONS if patterns[action]
    }
    if not grants:
        raise click.UsageError("it grants nothing; name an action, such as --read 'acme.*'")
    try:
        return _make(grants, ttl, sub, jti or uuid.uuid4().hex)
    except SettingsError as error:
        complain(str(error))
        return REFUSED


def _make(grants: dict[str, list[str]], ttl: int, sub: str | None, jti: str) -> int:
    """Print a token. Raises SettingsError and UsageError."""
    settings = Settings.load()
    if not settings.auth_secret:
        raise SettingsError("AUTH_SECRET: must be set, since it signs the token")
    try:
        secret_keys(settings.auth_secret)
    except ValueError as error:
        raise SettingsError(f"AUTH_SECRET: {error}") from None
    more = {"aud": settings.auth_audience, "jti": jti}
    more |= {"sub": sub} if sub else {}
    more |= {"iss": settings.auth_issuer} if settings.auth_issuer else {}
    try:
        made = make_token(settings.auth_secret[0], settings.auth_claim, grants, ttl, **more)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    write(f"{made}\n")
    return 0
