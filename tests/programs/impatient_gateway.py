"""The WSGI application with timeouts of one second, in place of 30, so that tests can wait."""

from app.routes.writing import json_body
from app.streaming.follow import client_socket
from wsgi import app

__all__ = ["app"]

client_socket.STALLED_SECONDS = 1.0
json_body.READ_SECONDS = 1.0
