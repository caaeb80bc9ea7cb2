"""The WSGI application with time-outs that a test can wait for."""

from app.routes import body
from app.streaming import outlet
from wsgi import app

__all__ = ["app"]

outlet.STALLED_SECONDS = 1.0
body.READ_SECONDS = 1.0
