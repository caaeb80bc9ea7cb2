"""The command `token`: makes a token that is signed with AUTH_SECRET."""

import argparse
import re
import uuid
from collections.abc import Sequence

from .auth.grants import ACTIONS
from .auth.tokens import make_token
from .settings import Settings, SettingsError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def token(arguments: Sequence[str]) -> int:
    """Print a token; exit with 2 if the arguments are wrong. Raises SettingsError."""
    parser = argparse.ArgumentParser(
        prog="token", description="Make a token that is signed with AUTH_SECRET."
    )
    for action in ACTIONS:
        parser.add_argument(
            f"--{action}",
            action="append",
            default=[],
            metavar="PATTERN",
            help="a run id, a prefix and one *, or *; may be repeated",
        )
    parser.add_argument("--ttl", type=_seconds, default="1h", help="such as 90s, 15m, 1h, 7d")
    parser.add_argument("--sub", help="the subject: whose the token is")
    parser.add_argument("--jti", default=uuid.uuid4().hex, help="its id, to revoke it by")
    given = parser.parse_args(arguments)
    grants: dict[str, list[str]] = {
        action: getattr(given, action) for action in ACTIONS if getattr(given, action)
    }
    if not grants:
        parser.error("it grants nothing; name an action, such as --read 'acme.*'")
    settings = Settings.load()
    if not settings.auth_secret:
        raise SettingsError("AUTH_SECRET: must be set, since it signs the token")
    more = {"aud": settings.auth_audience, "jti": given.jti}
    more |= {"sub": given.sub} if given.sub else {}
    more |= {"iss": settings.auth_issuer} if settings.auth_issuer else {}
    try:
        print(make_token(settings.auth_secret[0], settings.auth_claim, grants, given.ttl, **more))
    except ValueError as error:
        parser.error(str(error))
    return 0


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError("must be a number and s, m, h or d, such as 15m")
    return int(match[1]) * _UNITS[match[2]]
