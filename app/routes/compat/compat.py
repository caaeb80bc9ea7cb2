"""The presets: which of them a gateway has, and how they refuse a stream."""

import errno
from typing import Any, NoReturn

from flask import Flask, Response
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response as BaseResponse

from ...streaming.errors import StoreUnavailable
from ..gateway import gateway
from ..problems import respond
from . import ag_ui, ai_sdk, langgraph, openai

_PRESETS = {
    "ai-sdk": ai_sdk.blueprint,
    "ag-ui": ag_ui.blueprint,
    "openai": openai.blueprint,
    "langgraph": langgraph.blueprint,
}


class NoAnswer(Response):
    """Closes the connection in place of an answer."""

    def __call__(self, environ: Any, start_response: Any) -> NoReturn:
        """Raise what the server takes for the end of the connection."""
        raise ConnectionResetError(errno.ECONNRESET, "the worker is stopping")


def init_app(app: Flask, names: tuple[str, ...]) -> None:
    """Add the presets that the operator has asked for."""
    for name in names:
        app.register_blueprint(_PRESETS[name])


def _refuse(error: Exception) -> BaseResponse:
    """Refuse a stream.

    A connection that was kept alive may still lead to a worker which is stopping. Most of these
    clients give up at a 503. If it is closed, browsers and proxies ask again on another one, and
    clients that know a cursor come back.
    """
    return NoAnswer() if gateway().streams.draining else respond(error)


for _blueprint in _PRESETS.values():
    _blueprint.register_error_handler(ServiceUnavailable, _refuse)
    _blueprint.register_error_handler(StoreUnavailable, _refuse)
