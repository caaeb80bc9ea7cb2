"""Imports AsyncClient where httpx, named as an argument, cannot be imported."""

import sys

sys.modules.update(dict.fromkeys(sys.argv[1:]))

try:
    import app.async_client  # noqa: F401
except ImportError as error:
    message = str(error)

assert "install Tailrace with [async]" in message
