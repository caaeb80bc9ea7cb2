"""The client over HTTP, for processes that have no access to Redis."""

from ..streaming.errors import Ingested
from .client import Client

__all__ = ["Client", "Ingested"]
