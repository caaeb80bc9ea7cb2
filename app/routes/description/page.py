"""The page that shows the description: `GET /docs`, with what Swagger UI needs."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from flask import Blueprint, Flask, Response, abort, current_app, send_file

from ..access.access import declares

# The page may load what this gateway serves, and nothing else. Swagger UI needs no inline style
# and no inline script. Its images are in its styles, as data.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# The page is one of ours, and its assets are those of Swagger UI. Only these are served.
_OWN = Path(__file__).parent
_OF_SWAGGER_UI = ("swagger-ui.css", "index.css", "swagger-ui-bundle.js", "favicon-32x32.png")
_TYPES = {".css": "text/css", ".js": "text/javascript", ".png": "image/png"}

blueprint = Blueprint("docs", __name__)


def init_app(app: Flask) -> None:
    """Serve the page."""
    spec = find_spec("flask_swagger_ui")  # only its files are used
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    assets = {name: package / "dist" / name for name in _OF_SWAGGER_UI}
    app.extensions["tailrace.assets"] = {**assets, "page.js": _OWN / "page.js"}
    app.register_blueprint(blueprint)


@blueprint.get("/docs")
@declares("open")
def page() -> Response:
    """Answer the page. It holds no secret."""
    response = send_file(_OWN / "page.html", mimetype="text/html")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


@blueprint.get("/docs/<name>")
@declares("open")
def asset(name: str) -> Response:
    """Answer one of the assets of the page; a browser may keep it, and asks whether it is new."""
    assets = cast(Mapping[str, Path], current_app.extensions["tailrace.assets"])
    if name not in assets:
        abort(404)
    path = assets[name]
    return send_file(path, mimetype=_TYPES[path.suffix])
