"""The client over HTTP for asyncio. It requires httpx, which the extra `async` brings."""

try:
    import httpx  # noqa: F401
except ImportError as error:
    raise ImportError("AsyncClient requires httpx: install Tailrace with [async]") from error

from ..streaming.errors import Ingested
from .appender import AsyncAppender
from .client import AsyncClient

__all__ = ["AsyncAppender", "AsyncClient", "Ingested"]
