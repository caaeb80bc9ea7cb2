"""The WSGI application with a write time-out that a test can wait for."""

from app.streaming import outlet
from wsgi import app

__all__ = ["app"]

outlet.STALLED_SECONDS = 1.0
