"""The client over HTTP, for a process that has no access to Redis."""

from .client import Client
from .responses import Ingested

__all__ = ["Client", "Ingested"]
