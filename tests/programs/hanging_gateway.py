"""The WSGI application, which hangs if it is asked to, and is thought dead after a second."""

from app.routes import health
from wsgi import app

__all__ = ["app"]

health.MAX_SILENCE_SECONDS = 1.0
_ordinary = app.wsgi_app


def _hang_or_answer(environ, start_response):
    while environ["PATH_INFO"] == "/hang":
        pass
    return _ordinary(environ, start_response)


app.wsgi_app = _hang_or_answer
