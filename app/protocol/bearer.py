"""The token of a request, checked, and never shown."""

import re
from typing import Any

from ..streaming.errors import InvalidInput

_B64TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class Bearer:
    """Sends a token with a request (RFC 6750, section 2.1).

    Code passes this object around instead of the token, so that no text shows the token.
    """

    def __init__(self, token: str):
        """Raises InvalidInput unless the token is a `b64token` of RFC 6750."""
        if not isinstance(token, str) or not _B64TOKEN.fullmatch(token):
            message = (
                "must be a str of letters, digits and -._~+/ with = only at its end (RFC 6750)"
            )
            raise InvalidInput("token", message)
        self.header = f"Bearer {token}"
        self.is_dropped = False

    def __call__(self, request: Any) -> Any:
        """Add the token to a request, as `requests` calls an `auth`."""
        request.headers["Authorization"] = self.header
        return request
