"""The gateway, which logs every request that Flask is asked for."""

import logging

from flask import request, request_started

from app import create_app

app = create_app()


@request_started.connect_via(app)
def log_request(sender: object, **kwargs: object) -> None:
    logging.getLogger("asked").warning("asked %s %s", request.method, request.path)
