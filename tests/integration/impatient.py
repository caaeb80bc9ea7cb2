"""The WSGI application with time-outs that a test can wait for."""

from app.routes import json_body
from app.streaming.follow import client_socket
from wsgi import app

__all__ = ["app"]

client_socket.STALLED_SECONDS = 1.0
json_body.READ_SECONDS = 1.0
