"""The JavaScript client, which pages of any origin may import: `GET /client.js`."""

from hashlib import sha256
from pathlib import Path
from typing import cast

from flask import Blueprint, Flask, Response, current_app, request

from .access.access import declares

# An installed package has the module inside. In a checkout it is beside the package.
_PACKAGE = Path(__file__).parent.parent
_PLACES = (_PACKAGE / "client.js", _PACKAGE.parent / "clients" / "javascript" / "client.js")

blueprint = Blueprint("client_module", __name__)


def init_app(app: Flask) -> None:
    """Serve the module. It is 404 in a copy of the package that came without it."""
    path = next(filter(Path.exists, _PLACES), None)
    if path is not None:
        app.extensions["tailrace.client_module"] = path.read_bytes()
        app.register_blueprint(blueprint)


@blueprint.get("/client.js")
@declares("open")
def module() -> Response:
    """Answer the module; a browser may keep it, and asks whether it is new."""
    code = cast(bytes, current_app.extensions["tailrace.client_module"])
    response = Response(code, content_type="text/javascript; charset=utf-8")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.set_etag(sha256(code).hexdigest())
    response.make_conditional(request)
    return response
